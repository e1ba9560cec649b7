"""The native kernel of `bnlstm::BNLSTM` for CPUs: a library that ONNX Runtime loads.

It needs no Python. Any program that runs ONNX Runtime can register it:

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(bnlstm_deploy.native.library_path()))

`bnlstm_deploy.runtime` does so by itself. Nothing here imports more than the standard library.
"""

import hashlib
import sys
from functools import lru_cache
from pathlib import Path

from bnlstm_deploy.errors import RuntimeSessionError

__all__ = ["available", "library_path"]

REMEDY = "Install bnlstm-deploy again (in a checkout: python -m bnlstm_deploy.native.build)"

LIBRARY_NAMES = {"linux": "libbnlstm.so", "darwin": "libbnlstm.dylib", "win32": "bnlstm.dll"}
"""The library's file for each `sys.platform`."""


FOLDER = Path(__file__).parent
"""Where the library is, and the file with its digest."""


def library_path() -> Path:
    """Return the library's file, which is built when the package is installed.

    The file is as it was built: where it is not, loading it may end the process.

    Raises:
        RuntimeSessionError: This installation has no library: it is of the pure wheel, or of a
            checkout that nothing was built in. Or the library is damaged.
    """
    path = _path()
    if not available():
        raise RuntimeSessionError(
            f"the native kernel was not built for this installation: there is no {path}. Install "
            "a platform's wheel of bnlstm-deploy, or build it: pip install 'bnlstm-deploy[native]' "
            "and then python -m bnlstm_deploy.native.build"
        )
    try:
        state = path.stat()
        right = _is_as_built(path, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise RuntimeSessionError(
            f"the native kernel's library {path} cannot be read: {error}. {REMEDY}"
        ) from error
    if not right:
        raise RuntimeSessionError(
            f"the native kernel's library {path} is damaged: its SHA-256 is not that in "
            f"{digest_path(path).name}. {REMEDY}"
        )
    return path


def available() -> bool:
    """Return whether this installation has the library. Whether it loads, a session tells."""
    return _path().is_file()


def digest_path(library: Path) -> Path:
    """Return the file with the SHA-256 of a library, beside it."""
    return library.with_name(f"{library.name}.sha256")


def _path() -> Path:
    return FOLDER / LIBRARY_NAMES.get(sys.platform, LIBRARY_NAMES["linux"])


@lru_cache(maxsize=1)
def _is_as_built(path: Path, _modified: int, _size: int) -> bool:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return digest == digest_path(path).read_text(encoding="ascii").strip()
