"""What is said of graphs: the forms of the export, and graphs made by hand."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, parser

from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from tests.models import randomize
from tools.placement import Status, place
from tools.placement.table import documented_table

FULL = ("input", "hidden", "cell")
CONTROL_FLOW = {"Scan", "If", "Loop"}


def build(text, opset=20, domains="", functions=""):
    """A model in ONNX's text form; `text` is the graph."""
    header = f'<ir_version: 10, opset_import: ["": {opset}{domains}]>'
    return parser.parse_model(f"{header} {text} {functions}")


def of(placements, op):
    (placement,) = (p for p in placements if p.op == op)
    return placement


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "folding", "normalize"),
    [
        ("scan", "factored", FULL),
        ("scan", "materialized", FULL),
        ("unrolled", "factored", FULL),
        ("unrolled", "materialized", FULL),
        ("lstm", "factored", ()),
        ("lstm", "factored", ("input",)),
    ],
)
@pytest.mark.parametrize("opset", [18, 20, 23])
def test_every_form_has_kernels(form, folding, normalize, opset, tmp_path):
    model = randomize(BNLSTM(3, 8, max_length=5, normalize=normalize))
    length = 5 if form == "unrolled" else None
    path = tmp_path / "m.onnx"
    metadata = export(model, path, form=form, folding=folding, length=length, opset=opset)
    assert metadata.form == form
    nodes = place(path)
    missing = {p.op for p in nodes if p.status is Status.MISSING}
    assert not missing
    assert Status.CPU_SHAPES in {p.status for p in nodes}
    stopping = {p.op for p in nodes if not p.captures}
    if form == "unrolled":
        assert not stopping
    elif form == "lstm":  # the lengths go to the CPU and back
        assert "LSTM" in stopping
        assert not CONTROL_FLOW & stopping
    else:
        assert {"Scan", "If"} <= stopping
    if form in ("scan", "auto"):
        bodies = Counter(p.op for p in nodes if p.scope.endswith("/body"))
        assert bodies["Tanh"] == 4  # in both Scans, with a mask and without
    assert {p.domain for p in nodes} == {""}


def test_what_is_documented_of_newer_opsets(tmp_path):
    """Kernels of a table without an end are not for newer versions of their operators."""
    model = randomize(BNLSTM(3, 8, max_length=5))
    export(model, tmp_path / "m.onnx", form="scan", opset=23)
    nodes = place(tmp_path / "m.onnx", documented_table())
    assert "Scan" in {p.op for p in nodes if p.status is Status.MISSING}
    (reason,) = {p.reason for p in nodes if p.op == "Scan"}
    assert reason.startswith("no CUDA kernel of Scan for version 23 of the operator; it has 8, 9")


def recurrent(attributes="", inputs="", dtype="float", op="LSTM", gates=4):
    return build(f"""g ({dtype}[3, 2, 5] X) => ({dtype}[3, 1, 2, 4] Y)
      <{dtype}[1, {gates * 4}, 5] W, {dtype}[1, {gates * 4}, 4] R, {dtype}[1, 12] P>
      {{ Y = {op} <hidden_size: int = 4{attributes}> (X, W, R{inputs}) }}""")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (recurrent(inputs=", , , , , P"), "has no peepholes"),
        (recurrent(", clip = 0.0"), "has no clip"),
        (recurrent(', activations = ["Sigmoid", "Tanh", "Relu"]'), "these are sigmoid, tanh, relu"),
        (recurrent(", activation_alpha = [1.0]"), "has no activation_alpha"),
        (recurrent(", input_forget = 1"), "does not couple"),
        (recurrent(", linear_before_reset = 0", op="GRU", gates=3), "linear_before_reset=1"),
        (recurrent(dtype="bfloat16"), "no CUDA kernel of LSTM for bfloat16; it has float16, float"),
    ],
)
def test_recurrent_operators_that_go_to_the_cpu(model, reason):
    (node,) = place(model)
    assert node.status is Status.MISSING
    assert not node.captures
    assert reason in node.reason


@pytest.mark.parametrize(
    "model",
    [
        recurrent(),
        recurrent(dtype="float16"),
        recurrent(', activations = ["SIGMOID", "tanh", "Tanh"], input_forget = 0'),
        recurrent(", linear_before_reset = 1", op="GRU", gates=3),
        recurrent(', activations = ["Tanh"]', op="RNN", gates=1),
    ],
)
def test_recurrent_operators_that_cudnn_computes(model):
    (node,) = place(model)
    assert (node.status, node.captures, node.reason) == (Status.CUDA, True, "")
    assert set(node.dtypes) == {"T"}


def test_dtypes_without_kernels():
    model = build("""g (bfloat16[2] a, float16 start, float16 end) => (bool[2] b, float16[n] r) {
        b = LessOrEqual (a, a)
        r = Range (start, end, start)
    }""")
    less, steps = place(model)
    assert less.reason.startswith("no CUDA kernel of LessOrEqual for bfloat16; it has float16")
    assert (
        steps.reason
        == "no CUDA kernel of Range for float16; it has float32, float64, int16, int32, int64"
    )
    assert steps.version == 11
    assert less.dtypes == {"T": "bfloat16", "T1": "bool"}


def test_other_refusals():
    model = build("""g (float[4] a) => (string[4] s, int64[1] k, other) {
        s = Cast <to = 8> (a)
        k = ArgMax <select_last_index = 1> (a)
        other = Nothing (a)
    }""")
    cast, largest, nothing = place(model)
    assert "for string" in cast.reason or "strings" in cast.reason
    assert "last index" in largest.reason
    assert nothing.reason == "no CUDA kernel of Nothing, opset 20: there is no such operator"
    assert nothing.version is None


def test_other_domains():
    model = build(
        """g (float[4] a) => (b, c, d) {
            b = theirs.Op (a)
            c = com.microsoft.FastGelu (a)
            d = com.microsoft.FastGelu (b)
        }""",
        domains=', "theirs": 3, "com.microsoft": 1',
    )
    theirs, gelu, unknown = place(model)
    assert theirs.status is Status.MISSING
    assert "theirs::Op" in theirs.reason
    assert "nor has the model a usable function" in theirs.reason
    assert (gelu.status, gelu.domain, gelu.version) == (Status.CUDA, "com.microsoft", 1)
    assert unknown.reason == "no CUDA kernel of FastGelu can be chosen: its T has no dtype"


def test_functions_are_looked_into():
    body = """<domain: "theirs", opset_import: ["": 20]> Op (x) => (y) {
        four = Constant <value_int = 4> ()
        range = Range (x, x, x)
        y = Identity (range)
    }"""
    model = build(
        "g (float16 x) => (float16[n] y) { y = theirs.Op (x) }",
        domains=', "theirs": 1',
        functions=body,
    )
    steps, identity = place(model)
    assert (steps.op, steps.status) == ("Range", Status.MISSING)
    assert (identity.op, identity.status) == ("Identity", Status.CUDA)


def test_operators_that_are_functions_of_others_are_looked_into():
    model = build("""g (float[2] a, bfloat16 like, bool c) => (bfloat16[2] b) {
        b = If (c) <
            then_branch = t () => (bfloat16[2] x) { x = CastLike (a, like) },
            else_branch = e () => (bfloat16[2] y) { y = Cast <to = 16> (a) }
        >
    }""")
    choice, *casts = place(model)
    assert [(p.op, p.dtypes) for p in casts] == [("Cast", {"T1": "float32", "T2": "bfloat16"})] * 2
    assert choice.op == "If"
    assert choice.status is Status.CUDA
    assert not choice.captures


def test_bodies_are_looked_into_and_dtypes_come_from_around():
    model = build("""g (float16[3] h, float16[t, 3] X) => (float16[3] last, bool[t, 3] Y) {
        last, Y = Scan <num_scan_inputs = 1, body = b (s, x) => (next, y) {
            next = Add (s, h)
            wide = Cast <to = 16> (x)
            y = Less (wide, wide)
        }> (h, X)
    }""")
    scan, add, cast, less = place(model)
    assert (scan.status, scan.captures, scan.scope) == (Status.CUDA, False, "")
    assert (add.scope, add.dtypes, add.captures) == ("last/body", {"T": "float16"}, True)
    assert cast.status is Status.CUDA
    assert less.reason.startswith("no CUDA kernel of Less for bfloat16")


def test_shapes_stay_on_the_cpu_and_what_is_fixed_needs_no_kernel():
    model = build("""g (float[t, 6] X, float[3] Z) => (float[a, b] Y, int64[1] four, int64[t] k) {
        shape = Shape <end = 1> (X)
        two = Constant <value_ints = [2]> ()
        three = Shape (Z)
        minus = Neg (three)
        four = Add (two, minus)
        half = Div (shape, two)
        new = Concat <axis = 0> (half, four)
        Y = Reshape (X, new)
        zero = Constant <value_float = 0.0> ()
        all = Expand (zero, shape)
        k = Cast <to = 7> (all)
    }""")
    nodes = {p.op: p for p in place(model)}
    assert nodes.keys() == {"Shape", "Div", "Concat", "Reshape", "Expand", "Cast"}
    assert nodes["Div"].status is nodes["Concat"].status is Status.CPU_SHAPES
    assert "keeps shape arithmetic there" in nodes["Div"].reason
    assert all(p.captures for p in nodes.values())


def test_copies_stop_a_capture():
    model = build("""g (float[t] X) => (int64[1] Y, int64[1] Z) {
        shape = Shape (X)
        two = Constant <value_ints = [2]> ()
        double = Mul (shape, two)
        whole = Cast <to = 7> (X)
        Y = ReduceSum (whole, double)
        Z = Sub (whole, double)
    }""")
    nodes = {p.op: p for p in place(model)}
    assert nodes["Mul"].status is Status.CPU_SHAPES
    assert nodes["ReduceSum"].captures  # it takes the axes from the CPU
    assert not nodes["Sub"].captures
    assert nodes["Sub"].reason == "an input is copied between CPU and GPU"


def test_inputs_with_a_default_are_no_constants():
    graph = helper.make_graph(
        [helper.make_node("Range", ["start", "limit", "start"], ["r"])],
        "g",
        [helper.make_tensor_value_info("limit", TensorProto.FLOAT16, [])],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT16, ["n"])],
        [onnx.numpy_helper.from_array(np.float16(n), name) for name, n in _DEFAULTS],
    )
    (node,) = place(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    assert node.status is Status.MISSING


_DEFAULTS = (("start", 1), ("limit", 5))


def test_files_that_are_none(tmp_path):
    path = tmp_path / "m.onnx"
    with pytest.raises(RuntimeSessionError, match=r"m\.onnx does not exist"):
        place(path)
    with pytest.raises(RuntimeSessionError, match="cannot be read"):
        place(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(RuntimeSessionError, match="holds no graph"):
        place(str(path))
    path.write_bytes(b"not a model")
    with pytest.raises(RuntimeSessionError, match="is not an ONNX model"):
        place(path)
    torch.manual_seed(0)
    export(BNLSTM(2, 3, max_length=2).eval(), tmp_path / "whole.onnx")
    path.write_bytes((tmp_path / "whole.onnx").read_bytes()[:-100])
    with pytest.raises(RuntimeSessionError, match="is not an ONNX model"):
        place(path)
    broken = build("g (float[2] a) => (float[3] b) { b = Identity (a) }")
    broken.ClearField("opset_import")
    with pytest.raises(RuntimeSessionError, match="is not a valid ONNX model"):
        place(broken)
