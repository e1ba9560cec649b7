"""The table of CUDA kernels from ONNX Runtime's document: a short excerpt of its form."""

import json

import pytest

from tools.placement import cuda_table
from tools.placement.documented import DESTINATION, read_table, to_json

DOCUMENT = """\
## Execution Providers

## Operators implemented by CPUExecutionProvider

| Op Name | Parameters | OpSet Version | Types Supported |
|---------|------------|---------------|-----------------|
|**Operator Domain:** *ai.onnx*||||
|Sin|*in* input:**T**<br> *out* output:**T**|7+|**T** = tensor(double), tensor(float)|
|**Operator Domain:** *ai.onnx.ml*||||
|Scaler|*in* X:**T**<br> *out* Y:**tensor(float)**|1+|**T** = tensor(double)|
| |
| |

<a name="cudaexecutionprovider"/>

## Operators implemented by CUDAExecutionProvider

| Op Name | Parameters | OpSet Version | Types Supported |
|---------|------------|---------------|-----------------|
|**Operator Domain:** *ai.onnx*||||
|Add|*in* A:**T**<br> *out* C:**T**|14+|**T** = tensor(float), tensor(bfloat16)|
|||13|**T** = tensor(float)|
|||[7, 12]|**T** = tensor(double), tensor(float)|
|Crop|*in* input:**T**<br> *out* output:**T**|1+|**T** = tensor(float)|
|Loop|*in* cond:**B**<br> *out* v:**V**|1+|**B** = tensor(bool)<br/> **V** = seq(tensor(float))|
| |
|**Operator Domain:** *com.microsoft*||||
|Pick|*in* X:**T**<br> *in* k:**tensor(int64)**<br> *out* Y:**T**<br><br>or<br><br>*in* X:**S**|1+||
|**Operator Domain:** *com.ms.internal.nhwc*||||
|Conv|*in* X:**T**<br> *out* Y:**T**|22+|**T** = tensor(float)|

## Operators implemented by DmlExecutionProvider

|**Operator Domain:** *ai.onnx*||||
|Abs|*in* X:**T**<br> *out* Y:**T**|13+|**T** = tensor(float)|
"""


def test_reads_kernels_parameters_and_cpu_operators():
    table = read_table(DOCUMENT, "1.0", "somewhere")
    assert table["kernels"] == {
        "": {
            "Add": [
                [14, None, {"T": ["bfloat16", "float32"]}],
                [13, 13, {"T": ["float32"]}],
                [7, 12, {"T": ["float32", "float64"]}],
            ],
            "Crop": [[1, None, {"T": ["float32"]}]],
            "Loop": [[1, None, {"B": ["bool"], "V": ["seq(float32)"]}]],
        },
        "com.microsoft": {"Pick": [[1, None, {}]]},
    }
    assert table["parameters"] == {  # of those that the onnx package does not have
        "": {"Crop": {"in": [["input", "T"]], "out": [["output", "T"]]}},
        "com.microsoft": {
            "Pick": {"in": [["X", "T"], ["k", "tensor(int64)"]], "out": [["Y", "T"]]}
        },
    }
    assert table["cpu"] == {"": ["Sin"], "com.microsoft": []}
    assert (table["version"], table["source"]) == ("1.0", "somewhere")


def test_json_is_sorted_and_has_a_line_for_each_operator():
    table = read_table(DOCUMENT, "1.0", "somewhere")
    text = to_json(table)
    assert json.loads(text) == table
    assert sum(line.startswith('"Add":') for line in text.splitlines()) == 1
    backwards = {part: dict(reversed(table[part].items())) for part in ("kernels", "parameters")}
    assert to_json(table | backwards) == text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "CUDAExecutionProvider",
            "TpuExecutionProvider",
            "CUDAExecutionProvider'.*OperatorKernels",
        ),
        ("[7, 12]", "7 and up", "7 and up"),
        ("**T** = tensor(float)|\n|||[7", "T: tensor(float)|\n|||[7", "T: tensor"),
        ("|Add|", "||", "before the first operator"),
    ],
)
def test_refuses_a_document_of_another_form(old, new, message):
    with pytest.raises(ValueError, match=message):
        read_table(DOCUMENT.replace(old, new), "1.0", "somewhere")


def test_the_shipped_table_is_as_the_tool_writes_it():
    text = DESTINATION.read_text(encoding="utf-8")
    assert to_json(json.loads(text)) == text
    assert len(text) < 200_000
    assert json.loads(text)["version"] == cuda_table().version
