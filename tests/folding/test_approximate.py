"""What a file changes on purpose: weights in fewer bits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bnlstm_deploy.errors import FoldError
from bnlstm_deploy.folding import fold
from bnlstm_deploy.folding.approximate import EXACT, Approximation, quantize, round_floats
from bnlstm_deploy.nn import BNLSTM
from tests.models import randomize

FLOATS = st.floats(-1e30, 1e30, allow_subnormal=False)


def direction(**options):
    return fold(randomize(BNLSTM(3, 5, max_length=4, **options))).layers[0][0]


@given(arrays(np.float64, (20, 5), elements=FLOATS))
def test_int8_is_the_nearest_of_255_in_each_row(weight):
    exact = replace(direction(), weight_hh=weight)
    stored = quantize(exact, "int8")
    assert np.array_equal(stored.weight_hh, np.rint(stored.weight_hh))
    assert np.abs(stored.weight_hh).max() <= 127
    scale = (stored.hidden_scale / exact.hidden_scale)[0]
    largest = np.abs(weight).max(axis=1)
    used = largest > 0
    np.testing.assert_allclose(scale[used], largest[used] / 127, rtol=1e-12)
    error = np.abs(stored.weight_hh * scale[:, None] - weight)
    assert (error <= scale[:, None] * (0.5 + 1e-9)).all()
    assert (stored.weight_hh[~used] == 0).all()
    assert np.isfinite(stored.hidden_scale).all()


def test_the_equations_stay_what_they_are():
    """The scale of a row is a factor of what is multiplied anyway."""
    exact = direction()
    stored = quantize(exact, "int8")
    for weight, scale in (("weight_ih", "input_scale"), ("weight_hh", "hidden_scale")):
        wanted = getattr(exact, scale)[..., None] * getattr(exact, weight)
        found = getattr(stored, scale)[..., None] * getattr(stored, weight)
        largest = np.abs(wanted).max(axis=2, keepdims=True)
        assert (np.abs(found - wanted) <= largest / 254 * (1 + 1e-9)).all()
    for name in ("bias", "cell_scale", "cell_shift", "rows"):
        assert np.array_equal(getattr(stored, name), getattr(exact, name))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@given(arrays(np.float32, (7,), elements=st.floats(-60000, 60000, width=32)))
def test_floats_are_rounded_as_torch_rounds_float32(dtype, values):
    expected = torch.from_numpy(values).to(getattr(torch, dtype)).double().numpy()
    np.testing.assert_array_equal(round_floats(values.astype(np.float64), dtype), expected)


def test_floats_are_rounded_once():
    """Just above the middle of two numbers, which is what float32 would make of it."""
    middle = 1 + 2.0**-8
    assert round_floats(np.array([middle * (1 + 1e-12)]), "bfloat16")[0] == 1 + 2.0**-7
    assert round_floats(np.array([middle]), "bfloat16")[0] == 1


def test_what_float16_cannot_hold_is_an_error():
    with pytest.raises(FoldError, match=r"a weight is 7e\+04, and float16 ends at 65504; take"):
        quantize(replace(direction(), weight_ih=np.full((20, 3), 7e4)), "float16")


def test_nothing_is_changed_by_default():
    assert Approximation() == EXACT
    assert EXACT.exact
    assert not Approximation(weights="int8").exact
    assert not Approximation(merge_tolerance=1e-9).exact


def test_h_is_the_integer_next_to_127_h():
    """Against the equations by hand, and no more than half a level from h."""
    stored = Approximation(weights="int8", activations="int8").of(direction())
    assert stored.h_levels == 127
    h = np.random.default_rng(0).uniform(-1, 1, (7, 5))
    operand = stored.h_operand(h)
    assert np.array_equal(operand, np.rint(operand))
    assert np.abs(operand / 127 - h).max() <= 0.5 / 127
    np.testing.assert_array_equal(
        stored.h_operand(np.array([0.5 / 127, 1.5 / 127, -0.5 / 127, 2.0, -np.inf])),
        [0, 2, 0, 127, -127],
    )
    float_h = Approximation(weights="int8").of(direction())
    assert np.array_equal(float_h.h_operand(h), h)
    np.testing.assert_allclose(127 * stored.hidden_scale, float_h.hidden_scale, rtol=1e-15)
    for name in ("weight_ih", "weight_hh", "input_scale", "bias", "cell_scale", "cell_shift"):
        assert np.array_equal(getattr(stored, name), getattr(float_h, name))


def test_h_as_an_integer_moves_gates_by_half_a_level_a_weight():
    exact = direction()
    stored = Approximation(weights="int8", activations="int8").of(exact)
    float_h = Approximation(weights="int8").of(exact)
    x, c = np.zeros((1, 7, 3)), np.zeros((7, 5))
    h = np.random.default_rng(0).uniform(-1, 1, (7, 5))
    ends, step = np.ones(7, np.int64), np.zeros(7, np.int64)
    # of the equations: c of the first timestep, from c = 0, is sigmoid(i) tanh(g)
    gates = (stored.h_operand(h) @ stored.weight_hh.T) * stored.hidden_scale[0] + stored.bias[0]
    i, _, g, _ = np.split(gates, 4, axis=1)
    np.testing.assert_allclose(
        stored.run(x, h, c, ends, step)[2], np.tanh(g) / (1 + np.exp(-i)), rtol=1e-12
    )
    moved = np.abs(stored.run(x, h, c, ends, step)[2] - float_h.run(x, h, c, ends, step)[2])
    bound = np.abs(float_h.weight_hh * float_h.hidden_scale[0][:, None]).sum(axis=1).max()
    assert 0 < moved.max() <= bound / 254


def test_sums_that_float32_cannot_hold_are_an_error():
    hidden = 1041
    wide = replace(
        direction(),
        weight_ih=np.ones((4 * hidden, 3)),
        weight_hh=np.ones((4 * hidden, hidden)),
        input_scale=np.ones((1, 4 * hidden)),
        hidden_scale=np.ones((1, 4 * hidden)),
        bias=np.ones((1, 4 * hidden)),
        cell_scale=np.ones((1, hidden)),
        cell_shift=np.ones((1, hidden)),
        rows=np.array([0]),
    )
    with pytest.raises(FoldError, match="over 1041 hidden units may be 16790289, and float32 has"):
        Approximation(weights="int8", activations="int8").of(wide)
    assert Approximation(weights="int8").of(wide).hidden_size == hidden
