"""Reading `.npz` files, and what else is a zip archive: no more than the file really holds."""

import math
import zipfile
from pathlib import Path
from typing import IO, Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from bnlstm_deploy.errors import InputError

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}

ALWAYS = 2**28
"""Bytes that an archive may unpack to, whatever its size."""

RATIO = 100
"""Times its own size that an archive may unpack to beyond that: weights are hardly compressed."""


def read_npz(path: str | Path, only: str | None = None) -> dict[str, NDArray[Any]]:
    """Return the arrays of an `.npz` file by name; pickles in it are never executed.

    Args:
        path: The file.
        only: What to call the one array of an `.npy` file; None if there may be none.

    Returns:
        The arrays, in this machine's byte order.

    Raises:
        InputError: It is not there, is none, is damaged, or would unpack to far more than it is.
    """
    try:
        with Path(path).open("rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    check_archive(archive)
                    return {
                        entry.filename.removesuffix(".npy"): _read(
                            archive.open(entry), entry.file_size
                        )
                        for entry in archive.infolist()
                    }
            file.seek(0)
            array = _read(file, Path(path).stat().st_size)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except Exception as error:  # zipfile, zlib, numpy and the system each raise their own
        reason = str(error).partition("\n")[0] or type(error).__name__
        kinds = ".npz" if only is None else ".npz or .npy"
        raise InputError(f"{path} cannot be read as {kinds}: {reason}") from error
    if only is None:
        raise InputError(
            f"{path} holds one array without a name, as .npy; save it by name with "
            "numpy.savez(path, NAME=array)"
        )
    return {only: array}


def check_archive(archive: zipfile.ZipFile) -> None:
    """Check that an archive does not unpack to far more than it is.

    Raises:
        ValueError: It does.
    """
    entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    packed = sum(entry.compress_size for entry in entries)
    if size > max(ALWAYS, RATIO * packed):
        raise ValueError(f"{packed} bytes would unpack to {size}; save it without compression")


def _read(file: IO[bytes], size: int) -> NDArray[Any]:
    """Return an array, of a file that holds no more and no less.

    Raises:
        ValueError: It declares another size, or objects.
    """
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"version {version} of the format is for arrays of other than numbers")
    shape, _, dtype = HEADERS[version](file)
    declared = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and file.tell() + declared != size:
        raise ValueError(f"an array of shape {shape} and {dtype} is not what {size} bytes hold")
    file.seek(0)
    array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
    file.read(1)  # at its end zipfile compares the checksum
    return array.astype(array.dtype.newbyteorder("="), copy=False)
