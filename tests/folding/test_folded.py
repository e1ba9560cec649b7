"""The fold against the training model, its two views, and errors of contradicting arrays."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bnlstm_deploy.errors import FoldError
from bnlstm_deploy.folding import fold
from bnlstm_deploy.nn import BNLSTM
from tests.models import calls, models, randomize


@given(st.data())
def test_the_fold_is_the_training_model(data):
    model = data.draw(models())
    x, (h, c), lengths, steps = data.draw(calls(model))
    step = 0 if model.bidirectional else steps
    with torch.no_grad():
        output, (h_n, c_n) = model(x, (h, c), lengths=lengths, step=step)
    if model.batch_first:
        x, output = x.transpose(0, 1), output.transpose(0, 1)
    actual, (h_f, c_f) = fold(model).run(
        x.numpy(), (h.numpy(), c.numpy()), lengths=lengths.numpy(), step=steps.numpy()
    )
    for one, other in ((actual, output), (h_f, h_n), (c_f, c_n)):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-10, atol=1e-11)


@pytest.fixture
def direction():
    return fold(randomize(BNLSTM(3, 4, max_length=5))).layers[0][0]


def test_the_two_views_are_one_fold(direction):
    generator = np.random.default_rng(0)
    x, h = generator.standard_normal(3), generator.standard_normal(4)
    weights = direction.materialized()
    assert weights.weight_ih.shape == (5, 16, 3)
    assert weights.weight_hh.shape == (5, 16, 4)
    for k in range(5):
        factored = direction.input_scale[k] * (direction.weight_ih @ x)
        factored += direction.hidden_scale[k] * (direction.weight_hh @ h)
        np.testing.assert_allclose(weights.weight_ih[k] @ x + weights.weight_hh[k] @ h, factored)


def test_a_normalization_switched_off_is_scale_1_and_shift_0():
    model = BNLSTM(3, 4, max_length=5, normalize=())
    direction = fold(model).layers[0][0]
    assert direction.steps == 1
    assert (direction.input_scale == 1).all()
    assert (direction.hidden_scale == 1).all()
    assert (direction.cell_scale == 1).all()
    assert (direction.cell_shift == 0).all()
    np.testing.assert_array_equal(
        direction.bias[0], (model.bias_ih_l0.double() + model.bias_hh_l0.double()).detach()
    )


def test_rounding_happens_once_and_only_on_request(direction):
    assert direction.bias.dtype == np.float64
    rounded = direction.astype(np.float32)
    np.testing.assert_array_equal(rounded.bias, direction.bias.astype(np.float32))


def test_a_value_too_large_for_float32_is_an_error(direction):
    large = replace(direction, cell_scale=direction.cell_scale * 1e300)
    with pytest.raises(FoldError, match=r"cell_scale.* is inf"):
        large.astype(np.float32)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("weight_hh", lambda a: a[:-1], "expected \\(16, 4\\)"),
        ("weight_ih", lambda a: a[:, :, None], "two axes"),
        ("bias", lambda a: a[:-1], "expected \\(4, 16\\)"),
        ("cell_shift", lambda a: a[:, :-1], "expected \\(5, 4\\)"),
        ("input_scale", lambda a: a * np.nan, "is nan; it must be finite"),
    ],
)
def test_contradicting_arrays_are_an_error(direction, name, change, message):
    with pytest.raises(FoldError, match=message):
        replace(direction, **{name: change(getattr(direction, name))})


@pytest.mark.parametrize("buffer", ["running_var", "running_mean"])
def test_a_damaged_model_is_an_error(buffer):
    model = randomize(BNLSTM(3, 4, max_length=5))
    getattr(model.hidden_norm_l0, buffer)[2, 1] = float("nan")
    with pytest.raises(FoldError, match="nan at index \\(2, 1\\)"):
        fold(model)


def test_damaged_weights_are_an_error():
    model = randomize(BNLSTM(3, 4, max_length=5))
    model.weight_ih_l0.data[1, 2] = float("inf")
    with pytest.raises(FoldError, match="weight_ih\\[1, 2\\] is inf"):
        fold(model)


def test_saturated_gates_do_not_overflow():
    folded = fold(randomize(BNLSTM(3, 4, max_length=5)))
    output, _ = folded.run(np.full((2, 1, 3), -1e6))
    assert np.isfinite(output).all()
