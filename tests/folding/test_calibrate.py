"""Weights in int8 rounded on data: smaller errors of products, and levels next to the weights."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnlstm_deploy.errors import FoldError
from bnlstm_deploy.folding import FoldedLSTM, fold
from bnlstm_deploy.folding.approximate import Approximation
from bnlstm_deploy.folding.calibrate import (
    CLIPS,
    Moments,
    Observed,
    calibrate,
    levels_in_file,
    round_weight,
    whole_scale,
)
from bnlstm_deploy.nn import BNLSTM
from tests.models import randomize


def correlated(generator, count, size):
    """Inputs of which most are near a plane, and some are never there."""
    plane = np.random.default_rng(size).standard_normal((3, size))
    values = generator.standard_normal((count, 3)) @ plane
    values += 0.1 * generator.standard_normal((count, size))
    values[:, ::7] = 0
    return values


def loss(weight, rounded, moments):
    error = weight - rounded
    return np.einsum("ij,jk,ik->i", error, moments, error)


def nearest(weight):
    scale = whole_scale(weight)[:, None]
    return scale * np.rint(weight / scale)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
@settings(max_examples=30)
def test_levels_are_next_to_the_weight_and_the_file_tells_them(seed, size):
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((12, size)) * 10.0 ** generator.integers(-3, 4, (12, 1))
    weight[3] = 0
    weight[5, 0] *= 30  # an outlier
    x = correlated(generator, 50, size)
    levels, scale = round_weight(weight, x.T @ x / 50)
    assert np.array_equal(levels, np.rint(levels))
    assert np.abs(levels).max() <= 127
    exact = np.clip(weight / scale[:, None], -127, 127)
    assert np.abs(levels - exact).max() < 1
    assert np.isin(np.rint(1e6 * scale / whole_scale(weight)), np.rint(1e6 * CLIPS)).all()
    found = levels_in_file(weight, levels, scale.astype(np.float32))
    assert np.array_equal(found.levels, levels)
    assert np.array_equal(found.scale, scale)


def test_products_lose_less_than_with_the_nearest_levels():
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((64, 48))
    x = correlated(generator, 500, 48)
    moments = x.T @ x / 500
    levels, scale = round_weight(weight, moments)
    rounded = scale[:, None] * levels
    assert loss(weight, rounded, moments).sum() < 0.1 * loss(weight, nearest(weight), moments).sum()
    unseen = correlated(generator, 500, 48)
    for values in (x, unseen):
        error, before = (np.abs(values @ (weight - r).T).mean() for r in (rounded, nearest(weight)))
        assert error < 0.5 * before


def test_a_row_with_outliers_that_meet_nothing_is_clipped():
    generator = np.random.default_rng(0)
    weight = generator.uniform(-1, 1, (8, 1000))
    weight[:, 0] = 1.5
    x = generator.standard_normal((2000, 1000)) * np.where(np.arange(1000) == 0, 1e-4, 1)
    _, scale = round_weight(weight, x.T @ x / 2000)
    assert (scale / whole_scale(weight) < 0.9).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda levels, scale: (levels + np.where(levels > 0, -2, 2), scale),
        lambda levels, scale: (levels[::-1], scale),
        lambda levels, scale: (levels, 0.3 * scale),
        lambda levels, scale: (levels, 1.01 * scale),
        lambda levels, scale: (levels + 0.6, scale),
    ],
)
def test_what_is_not_next_to_the_weight_is_none(change):
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((8, 5))
    levels, scale = change(*round_weight(weight, np.eye(5)))
    assert levels_in_file(weight, levels, scale) is None


def test_moments_are_of_all_valid_timesteps():
    """Against a loop over streams and timesteps, with lengths, from any step and state."""
    (direction,) = fold(randomize(BNLSTM(3, 5, max_length=4))).layers[0]
    generator = np.random.default_rng(0)
    x, h, c = (generator.standard_normal(s) for s in ((6, 4, 3), (4, 5), (4, 5)))
    lengths, step = np.array([6, 0, 3, 1]), np.array([0, 2, 1, 5])
    observed = Observed.of(direction)
    results = observed.run(x, h, c, lengths, step)
    for found, expected in zip(results, direction.run(x, h, c, lengths, step), strict=True):
        np.testing.assert_array_equal(found, expected)
    of_x, of_h = np.zeros((3, 3)), np.zeros((5, 5))
    for n, length in enumerate(lengths):
        for t in range(length):
            before = h[n] if t == 0 else results[0][t - 1, n]
            of_x += np.outer(x[t, n], x[t, n])
            of_h += np.outer(before, before)
    assert observed.moments.count == lengths.sum()
    np.testing.assert_allclose(observed.moments.x, of_x)
    np.testing.assert_allclose(observed.moments.h, of_h)


def test_directions_are_found_by_path_and_suffix():
    model = fold(randomize(BNLSTM(3, 5, 2, bidirectional=True, max_length=4)))
    names = [f"rnn_l{k}{suffix}" for k in (0, 1) for suffix in ("", "_reverse")]
    moments = [np.eye(3 if k == 0 else 10) for k in (0, 0, 1, 1)]
    directions = [direction for layer in model.layers for direction in layer]
    chosen = {
        name: calibrate(d, Moments(m * (1 + i), np.eye(5), 7))
        for i, (name, d, m) in enumerate(zip(names, directions, moments, strict=True))
    }
    changed = Approximation(weights="int8", calibrated=chosen).apply(model, "rnn")
    assert isinstance(changed, FoldedLSTM)
    for name, direction in zip(names, (d for layer in changed.layers for d in layer), strict=True):
        assert np.array_equal(direction.weight_hh, chosen[name].weight_hh.levels)
    plain = Approximation(weights="int8").apply(model, "rnn")
    others = Approximation(weights="int8", calibrated={}).apply(model, "rnn")
    for one, other in zip(plain.layers[0], others.layers[0], strict=True):
        assert np.array_equal(one.weight_ih, other.weight_ih)


@pytest.mark.parametrize(
    ("moments", "message"),
    [
        (Moments(np.eye(3), np.eye(5), 0), "the calibration data have no timestep"),
        (Moments(np.full((3, 3), np.nan), np.eye(5), 7), "are not finite or too large"),
        (Moments(np.eye(3), np.full((5, 5), np.inf), 7), "are not finite or too large"),
    ],
)
def test_data_that_tell_nothing_are_an_error(moments, message):
    (direction,) = fold(randomize(BNLSTM(3, 5, max_length=4))).layers[0]
    with pytest.raises(FoldError, match=message):
        calibrate(direction, moments)
    whole = calibrate(direction, replace(moments, x=np.zeros((3, 3)), h=np.zeros((5, 5)), count=3))
    assert np.isfinite(whole.weight_ih.scale).all()
