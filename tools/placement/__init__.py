"""Placement on paper: which nodes of a graph ONNX Runtime would give to its CUDA provider."""

from tools.placement.place import Placement, Status, place
from tools.placement.table import Kernel, Table, cuda_table

__all__ = ["Kernel", "Placement", "Status", "Table", "cuda_table", "place"]
