"""Which CUDA kernels there are, found with the real partitioner: one tiny model for each question.

python -m tests.cuda_stub.kernels, started as in the Makefile, writes what was found to
tools/placement/measured.json.
"""

import json
import re
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from onnx import parser

from tests.cuda_stub.measure import CUDA, open_session

MEASURED = Path(__file__).parents[2] / "tools" / "placement" / "measured.json"
OPSETS = range(18, 24)
"""Those that there are exported files of."""

DTYPES = {
    **{"float16": "float16", "bfloat16": "bfloat16", "float32": "float", "float64": "double"},
    **{name: name for name in ("bool", "int32", "int64")},
}
"""What is tried, and its names in onnx's text format."""


def unary(op: str, parameter: str = "T") -> tuple[str, str]:
    return parameter, f"g (D[1, 4] a) => (c) {{ c = {op} (a) }}"


def binary(op: str) -> tuple[str, str]:
    return "T", f"g (D[2, 2] a, D[2, 2] b) => (c) {{ c = {op} (a, b) }}"


def shaped(op: str) -> tuple[str, str]:
    value = int(op == "Expand")
    return "T", f"g (D[1, 4] a) => (c) <int64[1] k = {{{value}}}> {{ c = {op} (a, k) }}"


PROBES = {
    **{op: unary(op) for op in ("Sigmoid", "Tanh", "Transpose")},
    **{op: binary(op) for op in ("Add", "MatMul", "Min", "Mul", "Sub")},
    **{op: binary(op) for op in ("Greater", "Less", "LessOrEqual")},
    **{op: shaped(op) for op in ("Expand", "Squeeze", "Unsqueeze")},
    "Identity": unary("Identity", "V"),
    "Concat": ("T", "g (D[2] a, D[2] b) => (c) { c = Concat <axis = 0> (a, b) }"),
    "ConstantOfShape": (
        "T2",
        "g (int64[1] k) => (c) { c = ConstantOfShape <value = D[1] {0}> (k) }",
    ),
    "EyeLike": ("T2", "g (float[2, 2] a) => (c) { c = EyeLike <dtype: int = N> (a) }"),
    "Gather": ("T", "g (D[2] a, int64[1] k) => (c) { c = Gather (a, k) }"),
    "GatherND": ("T", "g (D[2] a, int64[1, 1] k) => (c) { c = GatherND (a, k) }"),
    "Gemm": ("T", "g (D[2, 2] a, D[2, 2] b, D[2, 2] c) => (d) { d = Gemm (a, b, c) }"),
    "LSTM": (
        "T",
        """g (D[3, 2, 5] X, D[1, 16, 5] W, D[1, 16, 4] R) => (Y)
        { Y = LSTM <hidden_size = 4> (X, W, R) }""",
    ),
    "Pad": ("T", "g (D[2] a) => (c) <int64[2] k = {0, 1}> { c = Pad (a, k) }"),
    "Range": ("T", "g (D a, D b, D c) => (d) { d = Range (a, b, c) }"),
    "ReduceMin": ("T", "g (D[2, 2] a) => (c) { c = ReduceMin <keepdims = 0> (a) }"),
    "Reshape": ("T", "g (D[2] a) => (c) <int64[2] k = {1, 2}> { c = Reshape (a, k) }"),
    "ReverseSequence": (
        "T",
        "g (D[3, 2] a, int64[2] k) => (c) { c = ReverseSequence (a, k) }",
    ),
    "Shape": ("T", "g (D[n] a) => (c) { c = Shape (a) }"),
    "Split": ("T", "g (D[4] a) => (b, c) { b, c = Split <num_outputs = 2> (a) }"),
    "Where": ("T", "g (bool[2] k, D[2] a, D[2] b) => (c) { c = Where (k, a, b) }"),
    "If": (
        "V",
        """g (bool k, D[2] a) => (D[2] c) { c = If (k) <
            then_branch = t () => (D[2] x) { x = Identity (a) },
            else_branch = e () => (D[2] y) { y = Identity (a) }
        > }""",
    ),
    "Loop": (
        "V",
        """g (int64 n, bool k, D[2] a) => (D[2] c) { c = Loop (n, k, a) <
            body = b (int64 i, bool j, D[2] x) => (bool l, D[2] y)
            { l = Identity (j) y = Identity (x) }
        > }""",
    ),
    "Scan": (
        "V",
        """g (D[2] a, D[t, 3] X) => (D[2] c, D[t, 3] Y) { c, Y = Scan <num_scan_inputs = 1,
            body = b (D[2] s, D[3] x) => (D[2] r, D[3] y) { r = Identity (s) y = Identity (x) }
        > (a, X) }""",
    ),
}
"""For each operator of the forms the type parameter that is tried, and a model with D for it."""

CASTS = {
    "T1": "g (D[2] a) => (c) { c = Cast <to = 1> (a) }",
    "T2": "g (float[2] a) => (c) { c = Cast <to: int = N> (a) }",
}
"""The same for Cast, which has two parameters."""


def measure() -> dict[str, Any]:
    """Return, for each operator, version and type parameter, the dtypes that CUDA takes."""
    probes = {op: dict([probe]) for op, probe in PROBES.items()} | {"Cast": CASTS}
    kernels: dict[str, dict[str, dict[str, list[str]]]] = {}
    for op in sorted(probes):
        versions = kernels[op] = {}
        for opset in OPSETS:
            version = str(onnx.defs.get_schema(op, opset).since_version)
            if version not in versions:
                versions[version] = {
                    parameter: [name for name in DTYPES if taken(op, text, name, opset)]
                    for parameter, text in probes[op].items()
                }
    return {"version": ort.__version__, "dtypes": list(DTYPES), "kernels": kernels}


def taken(op: str, text: str, dtype: str, opset: int) -> bool:
    """Whether the CUDA provider takes the operator of a probe."""
    number = onnx.TensorProto.DataType.Value(DTYPES[dtype].upper())
    graph = _replace(text, {"D": DTYPES[dtype], "N": str(number)})
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {graph}')
    try:
        session = open_session(model, plain=True)
    except RuntimeError:  # no operator of the dtype, or neither provider has a kernel
        if dtype == "float32":
            raise
        return False
    return any(
        (node.op_type, part.ep_name) == (op, CUDA)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    )


def _replace(text: str, words: dict[str, str]) -> str:
    return re.sub(r"\b[DN]\b", lambda match: words[match[0]], text)


def dumps(measured: dict[str, Any]) -> str:
    """Return what is measured as JSON, an operator a line."""
    lines = [f'"{op}":{json.dumps(entry)}' for op, entry in measured["kernels"].items()]
    head = {name: value for name, value in measured.items() if name != "kernels"}
    return json.dumps(head)[:-1] + ',\n"kernels":{\n' + ",\n".join(lines) + "\n}}\n"


def main() -> None:
    """Measure, and write it."""
    MEASURED.write_text(dumps(measure()))


if __name__ == "__main__":
    main()
