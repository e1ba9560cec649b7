"""Merged rows and absorbed scales: what they keep, and what they may change."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bnlstm_deploy.errors import FoldError
from bnlstm_deploy.folding import FoldedDirection, absorb_scales, fold, merge
from bnlstm_deploy.folding.merge import SCALES, SHIFTS
from bnlstm_deploy.nn import BNLSTM
from tests.models import randomize

D, H = 2, 3


@st.composite
def directions(draw):
    """Folds whose consecutive rows are equal, close, or apart, and used in any order."""
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    moves = draw(st.lists(st.sampled_from([0.0, 1e-3, 1.0]), max_size=7))

    def rows(width):
        values = [generator.uniform(-2, 2, width)]
        for move in moves:
            values.append(values[-1] + move * generator.uniform(-1, 1, width))
        return np.stack(values)

    steps = draw(st.lists(st.integers(0, len(moves)), min_size=1, max_size=9))
    return FoldedDirection(
        weight_ih=generator.uniform(-1, 1, (4 * H, D)),
        weight_hh=generator.uniform(-1, 1, (4 * H, H)),
        input_scale=rows(4 * H),
        hidden_scale=rows(4 * H),
        bias=rows(4 * H),
        cell_scale=rows(H),
        cell_shift=rows(H),
        rows=np.array(draw(st.sampled_from([steps, list(range(len(moves) + 1))]))),
    )


def run(direction, step=0):
    generator = np.random.default_rng(0)
    x, h, c = (generator.standard_normal(shape) for shape in ((12, 2, D), (2, H), (2, H)))
    return direction.run(x, h, c, np.array([12, 7]), np.array([step, 0]))


@given(directions(), st.integers(0, 12))
def test_equal_rows_are_merged_and_nothing_else(direction, step):
    merged = merge(direction)
    values = np.concatenate([getattr(direction, name) for name in (*SCALES, *SHIFTS)], axis=1)
    changes = (values[1:] != values[:-1]).any(axis=1)
    assert len(merged.bias) == 1 + changes.sum()
    assert merged.steps == 1 or merged.rows[-1] != merged.rows[-2]
    for actual, truth in zip(run(merged, step), run(direction, step), strict=True):
        np.testing.assert_array_equal(actual, truth)


@given(directions(), st.sampled_from([1e-4, 1e-3, 1e-2, 0.5]))
def test_no_value_moves_by_more_than_the_tolerance(direction, tolerance):
    merged = merge(direction, tolerance)
    for step in range(direction.steps):
        old, new = (d.rows[min(step, d.steps - 1)] for d in (direction, merged))
        for names, least in ((SCALES, 0), (SHIFTS, 1)):
            for name in names:
                value = getattr(direction, name)[old]
                moved = np.abs(getattr(merged, name)[new] - value)
                allowed = tolerance * np.maximum(np.abs(value), least)
                assert (moved <= allowed * (1 + 1e-12) + 1e-15).all()


@given(directions(), st.sampled_from([0.0, 1e-3, 0.5]))
def test_merging_again_with_0_changes_nothing(direction, tolerance):
    merged = merge(direction, tolerance)
    again = merge(merged)
    np.testing.assert_array_equal(again.rows, merged.rows)
    np.testing.assert_array_equal(again.bias, merged.bias)


def test_statistics_that_stop_changing_are_few_rows():
    model = randomize(BNLSTM(D, H, max_length=50))
    for norm in model.norms("_l0"):
        for rows in (norm.running_mean, norm.running_var):
            rows[10:] = rows[9]
    merged = merge(fold(model).layers[0][0])
    assert merged.bias.shape[0] == merged.steps == 10
    np.testing.assert_array_equal(merged.rows, np.arange(10))
    model.input_norm_l0.running_mean[10:] += 1e-6 * torch.arange(40)[:, None]
    apart = fold(model).layers[0][0]
    assert merge(apart).steps == 50
    close = merge(apart, 1e-2)
    assert len(close.bias) == 10
    assert close.steps == 10


def test_rows_may_be_shared_by_timesteps_apart():
    direction = fold(randomize(BNLSTM(D, H, max_length=3))).layers[0][0]
    periodic = replace(direction, rows=np.array([0, 1, 2, 0, 1, 2]))
    assert merge(periodic).rows.tolist() == [0, 1, 2, 0, 1, 2]


@given(directions(), st.booleans(), st.booleans())
def test_constant_scales_go_into_the_weights(direction, input_constant, hidden_constant):
    constant = {}
    if input_constant:
        constant["input_scale"] = np.repeat(direction.input_scale[:1], len(direction.bias), 0)
    if hidden_constant:
        constant["hidden_scale"] = np.repeat(direction.hidden_scale[:1], len(direction.bias), 0)
    direction = replace(direction, **constant)
    absorbed = absorb_scales(direction)
    for name in constant:
        assert (getattr(absorbed, name) == 1).all()
    for actual, truth in zip(run(absorbed), run(direction), strict=True):
        np.testing.assert_allclose(actual, truth, rtol=1e-9, atol=1e-12)
    if (direction.hidden_scale != direction.hidden_scale[0]).any():
        np.testing.assert_array_equal(absorbed.weight_hh, direction.weight_hh)


@pytest.mark.parametrize("tolerance", [-1e-9, float("nan"), float("inf")])
def test_an_impossible_tolerance_is_an_error(tolerance):
    direction = fold(randomize(BNLSTM(D, H, max_length=3))).layers[0][0]
    with pytest.raises(FoldError, match="tolerance for merging rows is"):
        merge(direction, tolerance)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([0, 3]), "from 0 to 3; the arrays have rows 0 to 2"),
        (np.array([-1, 0]), "from -1 to 0"),
        (np.array([0.0]), "dtype float64"),
        (np.zeros((1, 1), np.int64), "shape \\(1, 1\\)"),
        (np.zeros(0, np.int64), "shape \\(0,\\)"),
    ],
)
def test_rows_that_are_not_there_are_an_error(rows, message):
    direction = fold(randomize(BNLSTM(D, H, max_length=3))).layers[0][0]
    with pytest.raises(FoldError, match=message):
        replace(direction, rows=rows)
