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
