"""The equivalence checker: does the exported graph compute what the training model computes?"""

from bnlstm_deploy.extras import require as _require

for _module in ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors"):
    _require(_module, extra="convert")
_require("onnxruntime", extra="cpu")

from bnlstm_deploy.verification.check import verify  # noqa: E402
from bnlstm_deploy.verification.judging.comparison import Comparison, Curve  # noqa: E402
from bnlstm_deploy.verification.judging.report import Report  # noqa: E402
from bnlstm_deploy.verification.measuring.samples import sample_like  # noqa: E402
from bnlstm_deploy.verification.reporting.record import record  # noqa: E402
from bnlstm_deploy.verification.testing import assert_equivalent  # noqa: E402

__all__ = [
    "Comparison",
    "Curve",
    "Report",
    "assert_equivalent",
    "record",
    "sample_like",
    "verify",
]
