"""The export: a model with folded layers as one ONNX file."""

from bnlstm_deploy.extras import require as _require

for _module in ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors"):
    _require(_module, extra="convert")

from bnlstm_deploy.exporting.export import export  # noqa: E402
from bnlstm_deploy.exporting.folded_module import FoldedBNLSTM  # noqa: E402

__all__ = ["FoldedBNLSTM", "export"]
