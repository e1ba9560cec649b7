"""The table of kernels, against what is known of ONNX Runtime's CUDA provider otherwise."""

import pytest

from tools.placement import Kernel, cuda_table
from tools.placement.table import documented_table

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
    table = cuda_table()
    assert "seq(float32)" in documented_table().kernels["", "If"][0].constraints["V"]
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


def kernels(table, op, version):
    return [kernel for kernel in table.kernels["", op] if kernel.runs(version)]


def test_what_is_measured_takes_precedence():
    documented, table = documented_table(), cuda_table()
    assert not documented.measured
    assert table.version == documented.version < table.measured
    for op, version in [("Scan", 21), ("If", 23), ("Identity", 23), ("LSTM", 22), ("Pad", 19)]:
        assert not kernels(documented, op, version)
        (kernel,) = kernels(table, op, version)
        assert (kernel.since, kernel.until) == (version, version)
    (known,), (found,) = (kernels(t, "ReverseSequence", 10) for t in (documented, table))
    assert known.constraints["T"] - found.constraints["T"] == {"bfloat16"}
    assert "uint8" in found.constraints["T"]  # which was not tried


def test_what_is_not_measured_is_as_documented():
    documented, table = documented_table(), cuda_table()
    assert table.kernels["", "Conv"] == documented.kernels["", "Conv"]
    assert kernels(table, "Scan", 11) == kernels(documented, "Scan", 11)
    (kernel,) = kernels(table, "If", 13)
    assert kernel.until == 15  # what was documented as 13 to 18, of which 16 was measured
    assert kernel.constraints == kernels(documented, "If", 13)[0].constraints
    assert kernels(table, "If", 16)[0].constraints["B"] == {"bool"}
    assert not kernels(table, "EyeLike", 22)
