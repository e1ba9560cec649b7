"""Names and numbers of dtypes, against those of onnx, torch and numpy."""

import numpy as np
import pytest
import torch
from onnx import TensorProto
from tritonclient.utils import np_to_triton_dtype

from bnlstm_deploy.dtypes import BY_ONNXRUNTIME, ELEMENT_TYPES, EPS, OUTSIDE

IN_ONNX = {"float64": "DOUBLE", "float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}


@pytest.mark.parametrize("name", ELEMENT_TYPES)
def test_dtypes_of_graphs(name):
    assert TensorProto.DataType.Name(ELEMENT_TYPES[name]) == IN_ONNX[name]
    assert torch.finfo(getattr(torch, name)).eps == EPS[name]


def test_dtypes_of_inputs_and_outputs():
    for name, names in OUTSIDE.items():
        assert np_to_triton_dtype(np.dtype(name)) == names.protocol
        assert BY_ONNXRUNTIME[names.onnxruntime] == np.dtype(name)
    assert BY_ONNXRUNTIME["tensor(float)"] == np.float32
