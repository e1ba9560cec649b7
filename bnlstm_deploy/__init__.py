"""bnlstm_deploy takes a trained batch-normalized LSTM to production.

The names below load when they are first used, so that importing the package, or its `runtime`,
imports neither torch nor onnx. The functions that are named like the package's rooms are imported
from there: `from bnlstm_deploy.fold import fold`, and likewise `export` and `verify`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from bnlstm_deploy.errors import BnlstmError
from bnlstm_deploy.version import __version__

if TYPE_CHECKING:
    from bnlstm_deploy.checkpoint import (
        import_checkpoint,
        load_checkpoint,
        replace,
        save_checkpoint,
    )
    from bnlstm_deploy.fold import FoldedDirection, FoldedLSTM
    from bnlstm_deploy.nn import BNLSTM, BNLSTMCell, BNLSTMModel, recalibrate
    from bnlstm_deploy.runtime import Session
    from bnlstm_deploy.state import State

__all__ = [
    "BNLSTM",
    "BNLSTMCell",
    "BNLSTMModel",
    "BnlstmError",
    "FoldedDirection",
    "FoldedLSTM",
    "Session",
    "State",
    "__version__",
    "import_checkpoint",
    "load_checkpoint",
    "recalibrate",
    "replace",
    "save_checkpoint",
]

_ROOMS = {
    "checkpoint": ("import_checkpoint", "load_checkpoint", "replace", "save_checkpoint"),
    "fold": ("FoldedDirection", "FoldedLSTM"),
    "nn": ("BNLSTM", "BNLSTMCell", "BNLSTMModel", "recalibrate"),
    "runtime": ("Session",),
    "state": ("State",),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(importlib.import_module(f"bnlstm_deploy.{room}"), name)
    raise AttributeError(f"module 'bnlstm_deploy' has no attribute {name!r}")
