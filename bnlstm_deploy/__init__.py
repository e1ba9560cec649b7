"""bnlstm_deploy takes a trained batch-normalized LSTM to production.

    model = bnlstm_deploy.load("checkpoint")
    bnlstm_deploy.export(model, "model.onnx")
    assert bnlstm_deploy.verify(model, "model.onnx").passed
    output, state = bnlstm_deploy.Session("model.onnx")(x)

The names below load when they are first used, so that importing the package, or its `runtime`,
imports neither torch nor onnx.
"""

import importlib as _importlib
import typing as _typing

from bnlstm_deploy.errors import BnlstmError
from bnlstm_deploy.version import __version__

if _typing.TYPE_CHECKING:
    from bnlstm_deploy.checkpoint import (
        import_checkpoint,
        load,
        load_checkpoint,
        replace,
        save_checkpoint,
    )
    from bnlstm_deploy.conversion import convert
    from bnlstm_deploy.exporting import export
    from bnlstm_deploy.folding import FoldedDirection, FoldedLSTM, fold
    from bnlstm_deploy.nn import BNLSTM, BNLSTMCell, BNLSTMModel, recalibrate
    from bnlstm_deploy.runtime import Session
    from bnlstm_deploy.state import State
    from bnlstm_deploy.verification import Report, assert_equivalent, sample_like, verify

__all__ = [
    "BNLSTM",
    "BNLSTMCell",
    "BNLSTMModel",
    "BnlstmError",
    "FoldedDirection",
    "FoldedLSTM",
    "Report",
    "Session",
    "State",
    "__version__",
    "assert_equivalent",
    "convert",
    "export",
    "fold",
    "import_checkpoint",
    "load",
    "load_checkpoint",
    "recalibrate",
    "replace",
    "sample_like",
    "save_checkpoint",
    "verify",
]

_ROOMS = {
    "checkpoint": ("import_checkpoint", "load", "load_checkpoint", "replace", "save_checkpoint"),
    "conversion": ("convert",),
    "exporting": ("export",),
    "folding": ("FoldedDirection", "FoldedLSTM", "fold"),
    "nn": ("BNLSTM", "BNLSTMCell", "BNLSTMModel", "recalibrate"),
    "runtime": ("Session",),
    "state": ("State",),
    "verification": ("Report", "assert_equivalent", "sample_like", "verify"),
}


def __getattr__(name: str) -> _typing.Any:  # noqa: ANN401
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(_importlib.import_module(f"bnlstm_deploy.{room}"), name)
    raise AttributeError(f"module 'bnlstm_deploy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
