"""The dtypes of exported graphs, and what numpy, ONNX Runtime and servers call them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

ELEMENT_TYPES = {"float64": 11, "float32": 1, "float16": 10, "bfloat16": 16}
"""The dtypes of graphs, the most exact first, and ONNX's numbers for them."""

REDUCED = ("float16", "bfloat16")
"""Of matrix products only: all else of such a graph is float32."""

STORED = ("int8", *REDUCED)
"""What weights may be stored as, where all else is float32."""

NATIVE = {"cpu": ("float32", "float64"), "cuda": ("float32", "float16", "bfloat16")}
"""Those that the native kernel is for, by the kind of device."""

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Distance from 1 to the next number."""


class Names(NamedTuple):
    """What a dtype of inputs and outputs is called."""

    onnxruntime: str
    protocol: str
    """In the Open Inference Protocol; Triton's configuration puts `TYPE_` before it."""


OUTSIDE: Mapping[str, Names] = {
    "float32": Names("tensor(float)", "FP32"),
    "float64": Names("tensor(double)", "FP64"),
    "int64": Names("tensor(int64)", "INT64"),
    "int32": Names("tensor(int32)", "INT32"),
    "bool": Names("tensor(bool)", "BOOL"),
}
"""The dtypes of inputs and outputs that this package exports, by numpy's name."""

PROTOCOL = {np.dtype(name): names.protocol for name, names in OUTSIDE.items()}
"""Their names in the Open Inference Protocol."""

BY_ONNXRUNTIME = {names.onnxruntime: np.dtype(name) for name, names in OUTSIDE.items()}
