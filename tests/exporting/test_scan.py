"""The function body of bnlstm::BNLSTM in the Scan form, apart from torch's exporter."""

import itertools
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from bnlstm_deploy.exporting import forms, op
from bnlstm_deploy.folding import fold
from bnlstm_deploy.nn import BNLSTM
from tests.exporting.nodes import expected, feeds_of, make_model, make_site, session
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
MERGED = replace(FOLDED, rows=np.array([0, 2, 1, 1, 3, 0]))

GENERATOR = np.random.default_rng(0)
CALL = {
    "X": GENERATOR.standard_normal((T, N, D)),
    "initial_h": GENERATOR.uniform(-1, 1, (N, H)),
    "initial_c": GENERATOR.standard_normal((N, H)),
    "lengths": np.array([6, 0, 3]),
    "start_step": np.array([0, 2, 9]),
}


@pytest.mark.parametrize("absent", ABSENT, ids=lambda names: "-".join(sorted(names)) or "none")
def test_every_pattern_of_optional_inputs(absent):
    present = [name for name in op.Inputs._fields if name not in absent]
    run = session(make_model(MERGED, present)).run
    truth = expected(MERGED, present, CALL)
    for actual, exact in zip(run(None, feeds_of(CALL, present)), truth, strict=True):
        np.testing.assert_allclose(actual, exact, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("opset", [18, 21, 23])
@pytest.mark.parametrize("rows", [True, False])
def test_the_onnx_reference_evaluator_agrees(opset, rows):
    present = op.Inputs._fields if rows else op.Inputs._fields[:-1]
    model = make_model(MERGED, present, opset=opset)
    truth = expected(MERGED, present, CALL)
    for actual, exact in zip(ReferenceEvaluator(model).run(None, CALL), truth, strict=True):
        np.testing.assert_allclose(actual, exact, rtol=1e-11, atol=1e-12)


@pytest.fixture(scope="module")
def run():
    return session(make_model(MERGED, op.Inputs._fields)).run


def test_states_lengths_and_steps_of_one_row_serve_all_streams(run):
    one = {name: array[:1] if name != "X" else array for name, array in CALL.items()}
    one["lengths"] = np.array([4])
    repeated = {n: a if n == "X" else np.repeat(a, N, axis=0) for n, a in one.items()}
    for actual, truth in zip(run(None, one), run(None, repeated), strict=True):
        np.testing.assert_array_equal(actual, truth)


def test_whole_sequences_are_those_whose_lengths_are_the_time(run):
    """The two branches: lengths that cut nothing, and the same streams beside a shorter one."""
    whole = run(None, CALL | {"lengths": np.full(N, T)})
    ragged = run(None, CALL | {"lengths": np.array([T, T, 1])})
    np.testing.assert_array_equal(ragged[0][:, :2], whole[0][:, :2])
    np.testing.assert_array_equal(ragged[1][:2], whole[1][:2])
    np.testing.assert_array_equal(ragged[2][:2], whole[2][:2])


def test_a_length_above_the_time_means_all_of_it(run):
    whole = run(None, CALL | {"lengths": np.full(N, T)})
    above = run(None, CALL | {"lengths": np.array([2**63 - 1])})
    for actual, truth in zip(above, whole, strict=True):
        np.testing.assert_array_equal(actual, truth)


def test_padding_of_nan_reaches_nothing(run):
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


def function(present, folding="factored"):
    return forms.function("scan", folding, make_site(FOLDED, present))


AFFINE = ["Add", "Mul"]


def test_a_timestep_of_whole_sequences_costs_16_nodes():
    ragged, whole = loops(function(op.Inputs._fields).node)
    assert whole == sorted([*CELL, *AFFINE, "Mul", "Add", "Identity", "MatMul"])
    assert len(whole) == 16
    assert ragged == sorted([*CELL, *AFFINE, "Mul", "Add", "MatMul", "Where", "Where"])


def test_materialized_a_timestep_has_no_scale():
    present = [name for name in op.Inputs._fields if name != "start_step"]
    ragged, whole = loops(function(present, "materialized").node)
    assert whole == sorted([*CELL, *AFFINE, "Add", "Identity", "MatMul"])
    assert ragged == sorted([*CELL, *AFFINE, "Add", "MatMul", "Where", "Where"])


def test_the_recurrent_weight_is_a_constant_of_each_branch(tmp_path):
    """There ONNX Runtime packs it; that of a graph further out it would pack at every timestep."""
    session(make_model(FOLDED, op.Inputs._fields[:-1]), tmp_path / "optimized.onnx")
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    (choice,) = (node for node in graph.node if node.op_type == "If")
    for branch in choice.attribute:
        (scan,) = (node for node in branch.g.node if node.op_type == "Scan")
        body = next(entry.g for entry in scan.attribute if entry.HasField("g"))
        (product,) = (node for node in body.node if node.op_type == "MatMul")
        assert product.input[1] in {entry.name for entry in branch.g.initializer}


def test_without_lengths_there_is_one_scan_and_no_if():
    body = function([name for name in op.Inputs._fields if name != "lengths"])
    assert len(loops(body.node)) == 1
    assert "If" not in [node.op_type for node in body.node]


def test_a_plain_lstm_has_no_scale_and_no_affine():
    (whole,) = loops(function(op.Inputs._fields[:6]).node)
    assert whole == sorted([*CELL, "Add", "Identity", "MatMul"])
