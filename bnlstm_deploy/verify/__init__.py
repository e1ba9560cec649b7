"""The equivalence checker: does the exported graph compute what the training model computes?"""

from bnlstm_deploy.extras import require

for _module in ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors"):
    require(_module, extra="convert")
require("onnxruntime", extra="cpu")

from bnlstm_deploy.verify.check import verify  # noqa: E402
from bnlstm_deploy.verify.report import Comparison, Report  # noqa: E402

__all__ = ["Comparison", "Report", "verify"]
