"""The table of kernels, against what is known of ONNX Runtime's CUDA provider otherwise."""

import pytest

from bnlstm_deploy.placement import Kernel, cuda_table

EVERYWHERE = [
    "Add",
    "Cast",
    "Concat",
    "Expand",
    "Gather",
    "Gemm",
    "Identity",
    "If",
    "Loop",
    "MatMul",
    "Min",
    "Mul",
    "Reshape",
    "Scan",
    "Shape",
    "Sigmoid",
    "Slice",
    "Split",
    "Squeeze",
    "Sub",
    "Tanh",
    "Transpose",
    "Unsqueeze",
    "Where",
]


def dtypes(op, parameter):
    return cuda_table().kernels["", op][0].constraints[parameter]


@pytest.mark.parametrize("op", EVERYWHERE)
def test_operators_of_the_forms_have_kernels_for_all_floats(op):
    newest = cuda_table().kernels["", op][0]
    parameter = {"Cast": "T1", "Identity": "V", "Scan": "V", "Loop": "V", "If": "V"}.get(op, "T")
    assert {"float32", "float16", "bfloat16"} <= newest.constraints[parameter]


@pytest.mark.parametrize("op", ["Range", "Less", "LessOrEqual", "Clip", "LSTM"])
def test_operators_without_bfloat16(op):
    assert "float32" in dtypes(op, "T")
    assert "bfloat16" not in dtypes(op, "T")


def test_other_facts():
    assert "float16" not in dtypes("Range", "T")
    assert dtypes("MatMulInteger", "T1") == {"int8"}
    assert "seq(float32)" in dtypes("If", "V")
    table = cuda_table()
    assert ("", "QLinearMatMul") not in table.kernels
    assert ("com.microsoft", "DynamicQuantizeLSTM") not in table.kernels
    assert table.domains == {"", "com.microsoft"}
    assert ("", "CastLike") not in table.cpu
    assert ("", "LSTM") in table.cpu
    assert table.parameters["", "Affine"].inputs == (("X", "T"),)
    assert table.source.startswith("https://github.com/microsoft/onnxruntime/blob/")
    assert table.version


def test_a_kernel_without_an_end_is_for_its_first_version_only():
    bounded = Kernel("Op", "", 7, 12, {})
    assert [v for v in range(20) if bounded.runs(v)] == [7, 8, 9, 10, 11, 12]
    assert [v for v in range(20) if Kernel("Op", "", 14, None, {}).runs(v)] == [14]
    assert [Kernel("Op", "", 7, until, {}).versions for until in (12, 7, None)] == [
        "7 to 12",
        "7",
        "7",
    ]
