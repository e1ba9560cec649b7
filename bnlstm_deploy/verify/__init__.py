"""The equivalence checker: does the exported graph compute what the training model computes?"""

from bnlstm_deploy.extras import require

for _module in ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors"):
    require(_module, extra="convert")
require("onnxruntime", extra="cpu")

from bnlstm_deploy.verify.check import verify  # noqa: E402
from bnlstm_deploy.verify.metrics import Comparison, Curve  # noqa: E402
from bnlstm_deploy.verify.record import record  # noqa: E402
from bnlstm_deploy.verify.report import Report  # noqa: E402
from bnlstm_deploy.verify.samples import sample_like  # noqa: E402
from bnlstm_deploy.verify.testing import assert_equivalent  # noqa: E402

__all__ = [
    "Comparison",
    "Curve",
    "Report",
    "assert_equivalent",
    "record",
    "sample_like",
    "verify",
]
