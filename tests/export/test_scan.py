"""The function body of bnlstm::BNLSTM in the Scan form, apart from torch's exporter."""

import itertools

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bnlstm_deploy.export import op
from bnlstm_deploy.export.forms import scan
from bnlstm_deploy.fold import fold
from bnlstm_deploy.nn import BNLSTM
from tests.models import randomize

T, N, D, H, S = 6, 3, 2, 4, 4

OPTIONAL = [
    {"input_scale"},
    {"hidden_scale"},
    {"cell_scale", "cell_shift"},
    {"lengths"},
    {"start_step"},
]
ABSENT = [
    set().union(*(group for group, leave_out in zip(OPTIONAL, chosen, strict=True) if leave_out))
    for chosen in itertools.product((False, True), repeat=len(OPTIONAL))
]

FOLDED = fold(randomize(BNLSTM(D, H, max_length=S), degenerate=True)).layers[0][0]

GENERATOR = np.random.default_rng(0)
CALL = {
    "X": GENERATOR.standard_normal((T, N, D)),
    "initial_h": GENERATOR.uniform(-1, 1, (N, H)),
    "initial_c": GENERATOR.standard_normal((N, H)),
    "lengths": np.array([6, 0, 3]),
    "start_step": np.array([0, 2, 9]),
}


def make_model(present, opset, dtype):
    """A model of one node; weights are initializers, everything else inputs of any shape."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    names = [name if name in present else "" for name in op.Inputs._fields]
    while not names[-1]:
        names.pop()
    node = helper.make_node(op.NAME, names, op.OUTPUTS, domain=op.DOMAIN)
    node.overload = scan.overload(present)
    axes = {"X": 3, "initial_h": 2, "initial_c": 2, "lengths": 1, "start_step": 1}
    inputs = [
        helper.make_tensor_value_info(
            name,
            onnx.TensorProto.INT64 if rank == 1 else element,
            [f"{name}_{axis}" for axis in range(rank)],
        )
        for name, rank in axes.items()
        if name in present
    ]
    outputs = [
        helper.make_tensor_value_info(name, element, [f"{name}_{axis}" for axis in range(rank)])
        for name, rank in zip(op.OUTPUTS, (3, 2, 2), strict=True)
    ]
    initializers = [
        numpy_helper.from_array(getattr(FOLDED, name).astype(dtype), name)
        for name in present
        if name not in axes
    ]
    graph = helper.make_graph([node], "test", inputs, outputs, initializers)
    model = helper.make_model(
        graph,
        functions=[scan.function(present, opset)],
        opset_imports=[
            helper.make_opsetid("", opset),
            helper.make_opsetid(op.DOMAIN, op.VERSION),
        ],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def expected(present):
    """What `FoldedDirection.run` computes with the absent inputs at their defaults."""
    arrays = {name: getattr(FOLDED, name) for name in op.Inputs._fields if hasattr(FOLDED, name)}
    for name, array in arrays.items():
        if name not in present:
            arrays[name] = np.full_like(array, 0.0 if name == "cell_shift" else 1.0)
    lengths = CALL["lengths"] if "lengths" in present else np.full(N, T)
    step = CALL["start_step"] if "start_step" in present else np.zeros(N, np.int64)
    return type(FOLDED)(**arrays).run(
        CALL["X"], CALL["initial_h"], CALL["initial_c"], lengths, step
    )


def session(model):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options)


@pytest.mark.parametrize("absent", ABSENT, ids=lambda names: "-".join(sorted(names)) or "none")
def test_every_pattern_of_optional_inputs(absent):
    present = [name for name in op.Inputs._fields if name not in absent]
    model = make_model(present, 20, np.float64)
    feeds = {name: array for name, array in CALL.items() if name in present}
    for actual, truth in zip(session(model).run(None, feeds), expected(present), strict=True):
        np.testing.assert_allclose(actual, truth, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("opset", [18, 21, 23])
def test_the_onnx_reference_evaluator_agrees(opset):
    present = op.Inputs._fields
    model = make_model(present, opset, np.float64)
    for actual, truth in zip(
        ReferenceEvaluator(model).run(None, CALL), expected(present), strict=True
    ):
        np.testing.assert_allclose(actual, truth, rtol=1e-11, atol=1e-12)


def test_states_lengths_and_steps_of_one_row_serve_all_streams():
    run = session(make_model(op.Inputs._fields, 20, np.float64)).run
    one = {name: array[:1] if name != "X" else array for name, array in CALL.items()}
    one["lengths"] = np.array([4])
    repeated = {n: a if n == "X" else np.repeat(a, N, axis=0) for n, a in one.items()}
    for actual, truth in zip(run(None, one), run(None, repeated), strict=True):
        np.testing.assert_array_equal(actual, truth)


def test_whole_sequences_are_those_whose_lengths_are_the_time():
    """The two branches: lengths that cut nothing, and the same streams beside a shorter one."""
    run = session(make_model(op.Inputs._fields, 20, np.float64)).run
    whole = run(None, CALL | {"lengths": np.full(N, T)})
    ragged = run(None, CALL | {"lengths": np.array([T, T, 1])})
    np.testing.assert_array_equal(ragged[0][:, :2], whole[0][:, :2])
    np.testing.assert_array_equal(ragged[1][:2], whole[1][:2])
    np.testing.assert_array_equal(ragged[2][:2], whole[2][:2])


def test_a_length_above_the_time_means_all_of_it():
    run = session(make_model(op.Inputs._fields, 20, np.float64)).run
    whole = run(None, CALL | {"lengths": np.full(N, T)})
    above = run(None, CALL | {"lengths": np.array([2**63 - 1])})
    for actual, truth in zip(above, whole, strict=True):
        np.testing.assert_array_equal(actual, truth)


def test_padding_of_nan_reaches_nothing():
    run = session(make_model(op.Inputs._fields, 20, np.float64)).run
    dirty = CALL["X"].copy()
    for n, length in enumerate(CALL["lengths"]):
        dirty[length:, n] = np.nan
    for actual, truth in zip(run(None, CALL | {"X": dirty}), run(None, CALL), strict=True):
        np.testing.assert_array_equal(actual, truth)


def loops(nodes):
    """The operators of the body of each Scan, sorted, however deep the Scan is nested."""
    found = []
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                body = [inner.op_type for inner in attribute.g.node]
                found += [sorted(body)] if node.op_type == "Scan" else loops(attribute.g.node)
    return found


CELL = ["Add", "Mul", "Mul", "Mul", "Sigmoid", "Sigmoid", "Sigmoid", "Split", "Tanh", "Tanh"]
"""What every LSTM computes at a timestep, besides its products."""


def test_a_timestep_of_whole_sequences_costs_16_nodes():
    ragged, whole = loops(scan.function(op.Inputs._fields, 20).node)
    affine_and_scale = ["Add", "Mul", "Mul"]
    assert whole == sorted([*CELL, *affine_and_scale, "Add", "Identity", "MatMul"])
    assert ragged == sorted([*CELL, *affine_and_scale, "Add", "MatMul", "Where", "Where"])


def test_without_lengths_there_is_one_scan_and_no_if():
    function = scan.function([name for name in op.Inputs._fields if name != "lengths"], 20)
    assert len(loops(function.node)) == 1
    assert "If" not in [node.op_type for node in function.node]


def test_a_plain_lstm_has_no_scale_and_no_affine():
    (whole,) = loops(scan.function(op.Inputs._fields[:6], 20).node)
    assert whole == sorted([*CELL, "Add", "Identity", "MatMul"])
