"""Every form and folding of a single node: what it computes, and what it is made of."""

import math
from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from bnlstm_deploy.exporting import forms, op
from bnlstm_deploy.exporting.forms.unrolled import WIDTH, split_widths
from bnlstm_deploy.folding import FoldedDirection
from tests.exporting.nodes import (
    all_nodes,
    expected,
    feeds_of,
    make_call,
    make_model,
    make_site,
    session,
)

ALL = op.Inputs._fields
SCALES = ("input_scale", "hidden_scale", "cell_scale", "cell_shift")
KINDS = [
    ("scan", "factored"),
    ("scan", "materialized"),
    ("unrolled", "factored"),
    ("unrolled", "materialized"),
    ("lstm", "factored"),
]


def make_direction(generator, *, hidden=4, num_rows=3, rows=None):
    def scales(width):
        return generator.uniform(0.3, 1.5, (num_rows, width)) * generator.choice([-1, 1], width)

    return FoldedDirection(
        weight_ih=generator.uniform(-1, 1, (4 * hidden, 2)),
        weight_hh=generator.uniform(-1, 1, (4 * hidden, hidden)),
        input_scale=scales(4 * hidden),
        hidden_scale=scales(4 * hidden),
        bias=generator.uniform(-1, 1, (num_rows, 4 * hidden)),
        cell_scale=scales(hidden),
        cell_shift=generator.uniform(-1, 1, (num_rows, hidden)),
        rows=np.arange(num_rows) if rows is None else np.array(rows),
    )


def allowed(form, folding, num_rows):
    """The inputs that a node of this form and folding may have."""
    left_out = set()
    if folding == "materialized":
        left_out |= {"start_step"}
    if form.startswith("lstm"):
        left_out |= {"hidden_scale", "cell_scale", "cell_shift"}
        left_out |= {"input_scale", "rows"} if num_rows == 1 else set()
    return [name for name in ALL if name not in left_out]


@pytest.mark.parametrize(("form", "folding"), KINDS)
@settings(max_examples=50)
@given(st.data())
def test_it_computes_the_fold(form, folding, data):
    generator = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    num_rows = data.draw(st.integers(1, 4))
    rows = data.draw(st.lists(st.integers(0, num_rows - 1), min_size=1, max_size=6))
    direction = make_direction(generator, num_rows=num_rows, rows=rows)
    time, batch = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 3))
    optional = ["input_scale", "hidden_scale", "cell_scale", "lengths", "start_step", "rows"]
    absent = data.draw(st.sets(st.sampled_from(optional)))
    absent |= {"cell_shift"} if "cell_scale" in absent else set()
    present = [name for name in allowed(form, folding, num_rows) if name not in absent]
    call = make_call(generator, time, batch, direction)
    for name in data.draw(st.sets(st.sampled_from(["state", "lengths", "start_step"]))):
        for shared in ("initial_h", "initial_c") if name == "state" else (name,):
            call[shared] = call[shared][:1]
    dtype = (
        np.float32
        if form.startswith("lstm")
        else data.draw(st.sampled_from([np.float32, np.float64]))
    )
    opset = data.draw(st.sampled_from([18, 20, 23]))
    model = make_model(direction, present, form, folding, opset=opset, dtype=dtype, time=time)
    feeds = feeds_of(call, present, dtype)
    results = [session(model).run(None, feeds)]
    if not (form.startswith("lstm") and "lengths" in present):  # the evaluator's LSTM ignores them
        results.append(ReferenceEvaluator(model).run(None, feeds))
    tolerance = 2e-5 if dtype == np.float32 else 1e-11
    for result in results:
        for actual, truth in zip(result, expected(direction, present, call), strict=True):
            assert actual.dtype == dtype
            np.testing.assert_allclose(actual, truth, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("form", "folding"), KINDS)
@pytest.mark.parametrize("batch", [1, 5])
def test_padding_and_streams_of_length_0(form, folding, batch):
    generator = np.random.default_rng(batch)
    direction = make_direction(generator)
    present = allowed(form, folding, 3)
    run = session(make_model(direction, present, form, folding, dtype=np.float32, time=6)).run
    call = make_call(generator, 6, batch, direction)
    call["lengths"] = np.array([0, 6, 2, 0, 5])[:batch]
    feeds = feeds_of(call, present, np.float32)
    clean = run(None, feeds)
    for n, length in enumerate(call["lengths"]):
        feeds["X"][length:, n] = np.nan
        assert not clean[0][length:, n].any()
    np.testing.assert_array_equal(clean[1][0], feeds["initial_h"][0])
    np.testing.assert_array_equal(clean[2][0], feeds["initial_c"][0])
    for actual, truth in zip(run(None, feeds), clean, strict=True):
        np.testing.assert_array_equal(actual, truth)
    above = run(None, feeds_of(call | {"lengths": np.array([2**63 - 1])}, present, np.float32))
    whole = run(None, feeds_of(call | {"lengths": np.array([6])}, present, np.float32))
    for actual, truth in zip(above, whole, strict=True):
        np.testing.assert_array_equal(actual, truth)


@given(st.integers(1, WIDTH**2), st.integers(1, 40 * WIDTH**2))
def test_trees_of_splits_reach_every_timestep_with_little_left_over(short, long):
    for time in (short, long):
        widths = split_widths(time)
        assert max(widths) <= WIDTH
        assert time <= math.prod(widths) < time + math.prod(widths[:-1])
        assert len(widths) == 1 or time > WIDTH ** (len(widths) - 1)


# 33 and 37 need padding; 1025 has three levels, and chunks that hold no timestep at all
@pytest.mark.parametrize("time", [1, 32, 33, 37, 1025])
@pytest.mark.parametrize("folding", ["factored", "materialized"])
def test_unrolled_has_no_control_flow_and_nothing_wider_than_32(time, folding):
    direction = make_direction(np.random.default_rng(0))
    site = make_site(direction, allowed("unrolled", folding, 3), time=time)
    nodes = list(all_nodes(forms.function("unrolled", folding, site).node))
    assert not {"Scan", "Loop", "If"} & {node.op_type for node in nodes}
    assert max(len(node.output) for node in nodes) <= WIDTH
    assert max(len(node.input) for node in nodes) <= WIDTH
    assert all(not node.input[1:] for node in nodes if node.op_type == "Split")  # equal parts


@pytest.mark.parametrize("time", [33, 37, 100])
@pytest.mark.parametrize("folding", ["factored", "materialized"])
def test_unrolled_over_several_levels(time, folding):
    generator = np.random.default_rng(time)
    direction = make_direction(generator, num_rows=5)
    present = allowed("unrolled", folding, 5)
    call = make_call(generator, time, 2, direction)
    model = make_model(direction, present, "unrolled", folding, time=time)
    results = session(model).run(None, feeds_of(call, present))
    for actual, truth in zip(results, expected(direction, present, call), strict=True):
        np.testing.assert_allclose(actual, truth, rtol=1e-10, atol=1e-11)


CELL = {"Sigmoid": 1, "Split": 1, "Sub": 1, "Mul": 4, "Add": 2, "Tanh": 1}
"""What a timestep computes between its gates and h, with a normalized cell."""


def unrolled_counts(folding, time, tmp_path):
    """Operators of the function, and of what ONNX Runtime runs; three rows for all timesteps."""
    direction = make_direction(np.random.default_rng(0))
    present = [name for name in allowed("unrolled", folding, 3) if name != "start_step"]
    model = make_model(direction, present, "unrolled", folding, dtype=np.float32, time=time)
    session(model, tmp_path / "optimized.onnx")
    run = onnx.load(tmp_path / "optimized.onnx").graph.node
    return [Counter(node.op_type for node in nodes) for nodes in (model.functions[0].node, run)]


@pytest.mark.parametrize(
    ("folding", "gates", "total"),
    [("factored", {"MatMul": 1, "Mul": 1, "Add": 1}, 13), ("materialized", {"Gemm": 1}, 11)],
)
def test_what_a_timestep_of_unrolled_costs(folding, gates, total, tmp_path):
    more, fewer = (unrolled_counts(folding, time, tmp_path) for time in (20, 19))
    for now, before in zip(more, fewer, strict=True):
        cost = now - before
        fused = cost.pop("FusedGemm", 0)  # on a CPU, Gemm and Sigmoid are one
        cost += Counter({"Gemm": fused, "Sigmoid": fused})
        assert cost == Counter(CELL) + Counter(gates)
        assert cost.total() == total


@pytest.mark.parametrize("num_rows", [1, 3])
@pytest.mark.parametrize("lengths", [True, False])
def test_lstm_is_one_operator_with_constant_weights(num_rows, lengths, tmp_path):
    direction = make_direction(np.random.default_rng(0), num_rows=num_rows)
    present = [n for n in allowed("lstm", "factored", num_rows) if lengths or n != "lengths"]
    model = make_model(direction, present, "lstm", "factored", dtype=np.float32)
    session(model, tmp_path / "optimized.onnx")
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    (node,) = (node for node in graph.node if node.op_type == "LSTM")
    assert set(node.input[1:4]) <= {entry.name for entry in graph.initializer}  # W, R and B
    assert not {"Scan", "Loop", "If"} & {node.op_type for node in graph.node}
    tables = {entry.name for entry in graph.initializer}
    gathers = [node for node in graph.node if node.op_type == "Gather" and node.input[0] in tables]
    assert bool(gathers) == (num_rows > 1)


@pytest.mark.parametrize("folding", ["factored", "materialized"])
def test_materialized_rows_that_are_shared_are_one_weight(folding, tmp_path):
    counts, _ = unrolled_counts(folding, 20, tmp_path)
    per_step = CELL["Mul"] + (folding == "factored")
    weights = 3 if folding == "materialized" else 0
    # the input's scale, half of c_0, and the doubling of four arrays
    assert counts["Mul"] == 20 * per_step + 1 + 1 + 4 + weights
