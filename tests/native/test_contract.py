"""The native kernel against docs/operator.md, on every instruction set of this CPU."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnlstm_deploy.runtime.kernel import instruction_sets
from tests.native.draws import inputs
from tests.native.reference import INPUTS, OUTPUTS, Array, Node, compute

SETS = st.sampled_from(instruction_sets())
THREADS = st.sampled_from([1, 2])
OPERANDS = INPUTS[1:4]
"""What is constant in exported files, besides scales and rows."""

LIMIT = 4
"""How many times the error that float32 cannot do without is allowed; and how many ULP."""
ROUNDED = 4
"""How often the inputs are rounded at random."""


def necessary(arrays: dict[str, Array], truth: dict[str, Array]) -> float:
    """Return the largest error in float32 of numpy, and of no more than the inputs' rounding.

    One computation may be right by luck, so there are several, and all outputs count together.
    """
    random = np.random.default_rng(0)

    def rounded(array: Array) -> Array:
        if array.dtype.kind != "f":
            return array
        up_or_down = random.choice([-1.0, 1.0], array.shape)
        result: Array = array * (1 + float(np.finfo(np.float32).epsneg) * up_or_down)
        return result

    others = [compute({n: rounded(a) for n, a in arrays.items()}) for _ in range(ROUNDED)]
    others.append(compute(arrays, np.float32))
    return max(
        float(np.abs(other[name] - truth[name]).max(initial=0))
        for other in others
        for name in OUTPUTS
    )


def assert_right(arrays: dict[str, Array], results: dict[str, Array]) -> None:
    """Compare with the reference in float64."""
    truth = compute(arrays)
    own = necessary(arrays, truth)
    for name, result in results.items():
        assert result.shape == truth[name].shape
        assert result.dtype == arrays["X"].dtype
        if result.dtype == np.float64:
            np.testing.assert_allclose(result, truth[name], rtol=1e-11, atol=1e-12)
        else:
            error = np.abs(result - truth[name]).max(initial=0)
            largest = max(np.abs(truth[name]).max(initial=0), 1)
            assert error <= LIMIT * (own + np.finfo(np.float32).eps * largest), name


@pytest.mark.slow
@given(st.data(), SETS, THREADS)
@settings(max_examples=300)
def test_all_of_the_contract(data, instruction_set, threads):
    dtype = data.draw(st.sampled_from([np.float32, np.float32, np.float64]))
    arrays = data.draw(inputs(dtype))
    constant = data.draw(st.sampled_from([(), OPERANDS, ("weight_hh",), INPUTS[1:]]))
    outputs = data.draw(st.sampled_from([OUTPUTS, ("Y",), ("Y_h",), ("Y_c",), ("Y_h", "Y_c")]))
    node = Node(arrays, frozenset(constant) & arrays.keys(), outputs, instruction_set, threads)
    assert_right(arrays, node.run())


@pytest.mark.parametrize("instruction_set", instruction_sets())
@pytest.mark.parametrize(
    ("batch", "features", "hidden"),
    [(1, 64, 200), (1, 1, 128), (40, 3, 100), (3, 200, 131), (33, 70, 300), (1, 5, 513)],
)
def test_sizes_that_are_shared_among_threads(instruction_set, batch, features, hidden):
    arrays = _layer(batch=batch, features=features, hidden=hidden)
    nodes = [Node(arrays, frozenset(OPERANDS), OUTPUTS, instruction_set, n) for n in (1, 2, 3)]
    first, *others = [node.run() for node in nodes]
    assert_right(arrays, first)
    for other in others:
        for name in OUTPUTS:
            np.testing.assert_array_equal(other[name], first[name])


@given(inputs(least=1), SETS, THREADS, st.data())
@settings(max_examples=60)
def test_a_stream_alone_is_the_same_to_the_bit(arrays, instruction_set, threads, data):
    n = data.draw(st.integers(0, arrays["X"].shape[1] - 1))
    node = Node(arrays, frozenset(OPERANDS), OUTPUTS, instruction_set, threads)
    alone = {name: _stream(name, array, n) for name, array in arrays.items()}
    together, single = node.run(), replace(node, inputs=alone, threads=1).run()
    np.testing.assert_array_equal(single["Y"][:, 0], together["Y"][:, n])
    np.testing.assert_array_equal(single["Y_h"][0], together["Y_h"][n])
    np.testing.assert_array_equal(single["Y_c"][0], together["Y_c"][n])


@given(inputs(least=1), SETS, THREADS, st.data())
@settings(max_examples=60)
def test_chunks_are_the_same_to_the_bit(arrays, instruction_set, threads, data):
    time = len(arrays["X"])
    cut = data.draw(st.integers(0, time))
    lengths = np.minimum(arrays.get("lengths", np.array([time])), time)
    step = np.minimum(arrays.get("start_step", np.array([0])), 2**62)
    arrays |= {"lengths": lengths, "start_step": step}
    node = Node(arrays, frozenset(OPERANDS), OUTPUTS, instruction_set, threads)
    whole = node.run()
    begin = replace(node, inputs=arrays | {"X": arrays["X"][:cut]}).run()
    batch = arrays["X"].shape[1]
    done = np.broadcast_to(np.minimum(lengths, cut), (batch,))
    rest = {
        "X": arrays["X"][cut:],
        "initial_h": begin["Y_h"],
        "initial_c": begin["Y_c"],
        "lengths": lengths - done,
        "start_step": step + done,
    }
    end = replace(node, inputs=arrays | rest).run()
    np.testing.assert_array_equal(np.concatenate([begin["Y"], end["Y"]]), whole["Y"])
    for name in ("Y_h", "Y_c"):
        np.testing.assert_array_equal(end[name], whole[name])


@given(inputs(least=1), SETS)
@settings(max_examples=40)
def test_what_is_past_a_length_reaches_nothing(arrays, instruction_set):
    time, batch = arrays["X"].shape[:2]
    lengths = np.arange(batch) % (time + 1)
    arrays["lengths"] = lengths
    node = Node(arrays, frozenset(OPERANDS), OUTPUTS, instruction_set)
    clean = node.run()
    dirty = arrays["X"].copy()
    dirty[np.arange(time)[:, None] >= lengths] = np.nan
    for name, result in replace(node, inputs=arrays | {"X": dirty}).run().items():
        np.testing.assert_array_equal(result, clean[name])
    assert not clean["Y"][np.arange(time)[:, None] >= lengths].any()


@pytest.mark.parametrize("instruction_set", instruction_sets())
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinities_stay_in_their_stream(instruction_set, value):
    arrays = _layer(batch=7, features=3, hidden=20)
    node = Node(arrays, frozenset(OPERANDS), OUTPUTS, instruction_set)
    clean = node.run()
    arrays = arrays | {"X": arrays["X"].copy()}
    arrays["X"][2, 4] = value
    results = replace(node, inputs=arrays).run()
    with np.errstate(invalid="ignore"):
        truth = compute(arrays)
    for name, result in results.items():
        np.testing.assert_array_equal(np.isnan(result), np.isnan(truth[name]))
        others = np.arange(7) != 4
        np.testing.assert_array_equal(result[..., others, :], clean[name][..., others, :])
    assert np.isnan(truth["Y"]).any()


@pytest.mark.parametrize("instruction_set", instruction_sets())
def test_sessions_of_two_types_at_a_time(instruction_set):
    single = _layer(batch=3, features=2, hidden=9)
    double = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in single.items()}
    for arrays in (single, double, single):
        node = Node(arrays, frozenset(OPERANDS), OUTPUTS, instruction_set)
        assert_right(arrays, node.run())


def _stream(name: str, array: Array, n: int) -> Array:
    """Return an input for one stream alone."""
    if name == "X":
        return array[:, n : n + 1]
    if name in {"initial_h", "initial_c", "lengths", "start_step"} and len(array) > 1:
        return array[n : n + 1]
    return array


def _layer(*, batch: int, features: int, hidden: int, time: int = 5) -> dict[str, Array]:
    random = np.random.default_rng(hidden)

    def normal(*shape: int, scale: float = 1) -> Array:
        return (scale * random.standard_normal(shape)).astype(np.float32)

    return {
        "X": normal(time, batch, features),
        "weight_ih": normal(4 * hidden, features, scale=max(features, 1) ** -0.5),
        "weight_hh": normal(4 * hidden, hidden, scale=hidden**-0.5),
        "bias": normal(4, 4 * hidden, scale=0.1),
        "initial_h": normal(batch, hidden, scale=0.5),
        "initial_c": normal(1, hidden),
        "input_scale": 1 + normal(4, 4 * hidden, scale=0.1),
        "hidden_scale": 1 + normal(4, 4 * hidden, scale=0.1),
        "cell_scale": 1 + normal(4, hidden, scale=0.1),
        "cell_shift": normal(4, hidden, scale=0.1),
        "lengths": random.integers(0, time + 1, batch),
    }
