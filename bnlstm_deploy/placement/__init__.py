"""Placement on paper: which nodes of a graph ONNX Runtime would give to its CUDA provider."""

from bnlstm_deploy.extras import require

require("onnx", extra="convert")

from bnlstm_deploy.placement.place import Placement, Status, place  # noqa: E402
from bnlstm_deploy.placement.table import Kernel, Table, cuda_table  # noqa: E402

__all__ = ["Kernel", "Placement", "Status", "Table", "cuda_table", "place"]
