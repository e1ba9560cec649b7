"""The export: a model with folded layers as one ONNX file."""

from bnlstm_deploy.extras import require

for _module in ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors"):
    require(_module, extra="convert")

from bnlstm_deploy.export.folded import FoldedBNLSTM  # noqa: E402
from bnlstm_deploy.export.model import export  # noqa: E402

__all__ = ["FoldedBNLSTM", "export"]
