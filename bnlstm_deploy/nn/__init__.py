"""The training model, in torch."""

from bnlstm_deploy.extras import require as _require

_require("torch", extra="convert")

from bnlstm_deploy.choices import Pooling  # noqa: E402
from bnlstm_deploy.nn.bnlstm import BNLSTM, State  # noqa: E402
from bnlstm_deploy.nn.cell import BNLSTMCell  # noqa: E402
from bnlstm_deploy.nn.distributed import synchronize_statistics  # noqa: E402
from bnlstm_deploy.nn.model import BNLSTMModel  # noqa: E402
from bnlstm_deploy.nn.norm import StepwiseBatchNorm  # noqa: E402
from bnlstm_deploy.nn.recalibrate import recalibrate  # noqa: E402
from bnlstm_deploy.normalizations import NormPath  # noqa: E402

__all__ = [
    "BNLSTM",
    "BNLSTMCell",
    "BNLSTMModel",
    "NormPath",
    "Pooling",
    "State",
    "StepwiseBatchNorm",
    "recalibrate",
    "synchronize_statistics",
]
