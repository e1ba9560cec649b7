"""The native kernel of `bnlstm::BNLSTM` for CPUs: a library that ONNX Runtime loads.

It needs no Python. Any program that runs ONNX Runtime can register it:

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(bnlstm_deploy.native.library_path()))

`bnlstm_deploy.runtime` does so by itself. Nothing here imports more than the standard library.
"""

import sys
from pathlib import Path

from bnlstm_deploy.errors import RuntimeSessionError

__all__ = ["available", "library_path"]

LIBRARY_NAMES = {"linux": "libbnlstm.so", "darwin": "libbnlstm.dylib", "win32": "bnlstm.dll"}
"""The library's file for each `sys.platform`."""


def library_path() -> Path:
    """Return the library's file, which is built when the package is installed.

    Raises:
        RuntimeSessionError: This installation has no library: it is of the pure wheel, or of a
            checkout that nothing was built in.
    """
    path = Path(__file__).parent / LIBRARY_NAMES.get(sys.platform, LIBRARY_NAMES["linux"])
    if not path.is_file():
        raise RuntimeSessionError(
            f"the native kernel was not built for this installation: there is no {path}. Install "
            "a platform's wheel of bnlstm-deploy, or build it: pip install 'bnlstm-deploy[native]' "
            "and then python -m bnlstm_deploy.native.build"
        )
    return path


def available() -> bool:
    """Return whether this installation has the library. Whether it loads, a session tells."""
    try:
        library_path()
    except RuntimeSessionError:
        return False
    return True
