"""Checkpoints: from files on disk to a training model, and back.

Layouts are read without torch; all else loads when it is first used.
"""

import importlib as _importlib
import typing as _typing

from bnlstm_deploy.checkpoint.layout import Layout
from bnlstm_deploy.checkpoint.parse import find_layout, shipped_layouts
from bnlstm_deploy.extras import require as _require

if _typing.TYPE_CHECKING:
    from bnlstm_deploy.checkpoint.digest import state_sha256
    from bnlstm_deploy.checkpoint.loading import Imported, import_checkpoint, load, load_checkpoint
    from bnlstm_deploy.checkpoint.own_format import save_checkpoint
    from bnlstm_deploy.checkpoint.read import read_tensors
    from bnlstm_deploy.checkpoint.recorded import compare_recording, read_recording
    from bnlstm_deploy.checkpoint.replacement import replace

__all__ = [
    "Imported",
    "Layout",
    "compare_recording",
    "find_layout",
    "import_checkpoint",
    "load",
    "load_checkpoint",
    "read_recording",
    "read_tensors",
    "replace",
    "save_checkpoint",
    "shipped_layouts",
    "state_sha256",
]

_MODULES = {
    "digest": ("state_sha256",),
    "loading": ("Imported", "import_checkpoint", "load", "load_checkpoint"),
    "own_format": ("save_checkpoint",),
    "read": ("read_tensors",),
    "recorded": ("compare_recording", "read_recording"),
    "replacement": ("replace",),
}


def __getattr__(name: str) -> _typing.Any:  # noqa: ANN401
    for module, names in _MODULES.items():
        if name in names:
            for needed in ("torch", "safetensors"):
                _require(needed, extra="convert")
            value = getattr(_importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = value  # `replace` is a module, too
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
