"""Reading `.npz` files."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.errors import InputError


def read_npz(path: str | Path, only: str | None = None) -> dict[str, NDArray[Any]]:
    """Return the arrays of an `.npz` file by name; pickles in it are never executed.

    Args:
        path: The file.
        only: What to call the one array of an `.npy` file; None if there may be none.

    Raises:
        InputError: It is not there, is none, or is damaged.
    """
    try:
        with Path(path).open("rb") as file:  # numpy leaves a damaged one open
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.lib.npyio.NpzFile):
                return {name: content[name] for name in content.files}
        if only is not None:
            return {only: content}
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except Exception as error:  # zipfile, zlib, numpy and the system each raise their own
        reason = str(error).partition("\n")[0]
        kinds = ".npz" if only is None else ".npz or .npy"
        raise InputError(f"{path} cannot be read as {kinds}: {reason}") from error
    raise InputError(
        f"{path} holds one array without a name, as .npy; save it by name with "
        "numpy.savez(path, NAME=array)"
    )
