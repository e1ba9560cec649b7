"""h in int8: integers, whichever instructions multiply them, on every instruction set."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnlstm_deploy.runtime.kernel import instruction_sets
from tests.native.draws import inputs
from tests.native.reference import INPUTS, OUTPUTS, Node

WEIGHTS = ("weight_ih", "weight_hh")
LAST = 2**63 - 1
WITHOUT = {"bnlstm.dot_products": "0"}


def in_int8(arrays):
    """The arrays with weights in int8, which are multiplied with up to 127."""
    changed = dict(arrays)
    for name in WEIGHTS:
        changed[name] = np.rint(40 * np.clip(arrays[name], -3, 3)).astype(np.int8)
    one = np.ones((len(arrays["bias"]), arrays["bias"].shape[1]), np.float32)
    changed["input_scale"] = (arrays.get("input_scale", one) / 40).astype(np.float32)
    changed["hidden_scale"] = (arrays.get("hidden_scale", one) / 40 / 127).astype(np.float32)
    return changed


def rounded(h):
    """h as an integer, written from docs/operator.md."""
    return np.clip(np.rint(h * np.float32(127)), -127, 127).astype(np.float32)


def timestep_by_timestep(node):
    """What the node gives, from nodes of one timestep whose h is an integer already."""
    x = node.inputs["X"]
    (time, batch, _), hidden = x.shape, node.inputs["weight_hh"].shape[1]
    h = np.broadcast_to(node.inputs["initial_h"], (batch, hidden)).astype(np.float32)
    c = np.broadcast_to(node.inputs["initial_c"], (batch, hidden)).astype(np.float32)
    lengths = np.broadcast_to(node.inputs.get("lengths", np.array([time])), (batch,))
    start = np.broadcast_to(node.inputs.get("start_step", np.array([0])), (batch,))
    y = np.zeros((time, batch, hidden), np.float32)
    for t in range(time):
        arrays = node.inputs | {"X": x[t : t + 1], "initial_h": rounded(h), "initial_c": c}
        arrays |= {
            "lengths": (t < lengths).astype(np.int64),
            "start_step": np.minimum(start, LAST - t) + t,
        }
        found = replace(node, inputs=arrays, constant=frozenset(), h_levels=0).run()
        valid = (t < lengths)[:, None]
        h, c, y[t] = np.where(valid, found["Y_h"], h), found["Y_c"], found["Y"][0]
    return {"Y": y, "Y_h": h, "Y_c": c}


@given(
    inputs(),
    st.sampled_from(instruction_sets()),
    st.sampled_from([1, 2]),
    st.sampled_from([(), WEIGHTS, INPUTS[1:]]),
    st.sampled_from([{}, WITHOUT]),
)
@settings(max_examples=60)
def test_to_the_bit_what_integers_as_floats_give(
    arrays, instruction_set, threads, constant, options
):
    arrays = in_int8(arrays)
    names = frozenset(constant) & arrays.keys()
    node = Node(arrays, names, OUTPUTS, instruction_set, threads, options, h_levels=127)
    found, expected = node.run(), timestep_by_timestep(node)
    for name in OUTPUTS:
        np.testing.assert_array_equal(found[name], expected[name])


def extreme(hidden):
    """All products as large as they can be, of both signs."""
    sign = np.where(np.arange(4 * hidden)[:, None] % 2, 1, -1)
    return {
        "X": np.zeros((1, 1, 1), np.float32),
        "weight_ih": np.zeros((4 * hidden, 1), np.int8),
        "weight_hh": (sign * np.full((4 * hidden, hidden), 127)).astype(np.int8),
        "bias": np.zeros((1, 4 * hidden), np.float32),
        "initial_h": np.ones((1, hidden), np.float32),
        "initial_c": np.zeros((1, hidden), np.float32),
        "hidden_scale": np.full((1, 4 * hidden), 1 / (127**2 * hidden), np.float32),
    }


@pytest.mark.parametrize("options", [{}, WITHOUT], ids=["dots", "without"])
@pytest.mark.parametrize("instruction_set", instruction_sets())
def test_sums_neither_saturate_nor_overflow(instruction_set, options):
    for hidden in (3, 64, 1000):
        node = Node(
            extreme(hidden), frozenset(WEIGHTS), OUTPUTS, instruction_set, 1, options, h_levels=127
        )
        found, expected = node.run(), timestep_by_timestep(node)
        for name in OUTPUTS:
            np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("options", [{}, WITHOUT], ids=["dots", "without"])
@pytest.mark.parametrize("instruction_set", instruction_sets())
def test_what_is_no_number_stays_so_and_what_is_too_large_is_clipped(instruction_set, options):
    arrays = extreme(19)
    h = np.zeros((4, 19), np.float32)
    h[0, 17], h[1, 18], h[2, 0] = np.nan, np.inf, -5.0
    arrays |= {"X": np.zeros((1, 4, 1), np.float32), "initial_h": h}
    arrays["initial_c"] = np.zeros((4, 19), np.float32)
    node = Node(arrays, frozenset(WEIGHTS), OUTPUTS, instruction_set, 1, options, h_levels=127)
    found, expected = node.run(), timestep_by_timestep(node)
    assert np.isnan(found["Y"][0, 0]).all()
    for name in OUTPUTS:
        np.testing.assert_array_equal(found[name][1:], expected[name][1:])
        assert np.isfinite(found[name][..., 1:, :]).all()


@pytest.mark.parametrize(("levels", "dtype"), [(63, np.int8), (127, np.float32)])
def test_other_levels_are_refused(levels, dtype):
    arrays = extreme(3)
    for name in WEIGHTS:
        arrays[name] = arrays[name].astype(dtype)
    # onnxruntime's exceptions have no common base
    with pytest.raises(Exception, match=f"h_levels is {levels}; it is 127"):
        Node(arrays, frozenset(WEIGHTS), h_levels=levels).session()
