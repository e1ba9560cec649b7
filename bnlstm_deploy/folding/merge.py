"""Fewer rows and fewer scales: what of a fold does not change over time is kept once."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.errors import FoldError
from bnlstm_deploy.folding.folded import FloatArray, FoldedDirection

SCALES = ("input_scale", "hidden_scale", "cell_scale")
"""Arrays with a row for each k whose tolerance is relative."""

SHIFTS = ("bias", "cell_shift")
"""Arrays with a row for each k that are added to values of the order of 1."""


def merge(direction: FoldedDirection, tolerance: float = 0.0) -> FoldedDirection:
    """Let consecutive rows that are equal, or nearly so, be one row.

    From the first row on, rows join a group as long as every value of the group's mid-range, which
    replaces its rows, is within

        tolerance * |value|            for scales
        tolerance * max(1, |value|)    for bias and cell_shift

    of that value in each of the rows. With tolerance 0 only exactly equal rows are merged, and the
    fold computes bit for bit what it computed before. Timesteps at the end of `rows` that repeat
    its last entry are dropped, since later timesteps use the last one anyway.

    Args:
        direction: The fold. Its weights stay as they are.
        tolerance: How far a value may move, at least 0.

    Raises:
        FoldError: The tolerance is negative or not finite.
    """
    if not 0 <= tolerance < np.inf:
        raise FoldError(
            f"the tolerance for merging rows is {tolerance}; pass a number of at least 0, 0 to "
            "merge exactly equal rows only"
        )
    names = (*SCALES, *SHIFTS)
    widths = [getattr(direction, name).shape[1] for name in names]
    values = np.concatenate([getattr(direction, name) for name in names], axis=1)
    least = np.zeros(values.shape[1], dtype=values.dtype)
    least[sum(widths[: len(SCALES)]) :] = 1
    merged, group_of = _merge_rows(values, np.maximum(np.abs(values), least) * tolerance)
    input_scale, hidden_scale, cell_scale, bias, cell_shift = np.split(
        merged, np.cumsum(widths)[:-1], axis=1
    )
    return replace(
        direction,
        input_scale=input_scale,
        hidden_scale=hidden_scale,
        bias=bias,
        cell_scale=cell_scale,
        cell_shift=cell_shift,
        rows=_trim(group_of[direction.rows]),
    )


def absorb_scales(direction: FoldedDirection) -> FoldedDirection:
    """Multiply a scale whose rows are all equal into the weights, and set it to 1.

    Do this before rounding: in float64 the product is as exact as the fold itself.
    """
    weight_ih, input_scale = _absorb(direction.weight_ih, direction.input_scale)
    weight_hh, hidden_scale = _absorb(direction.weight_hh, direction.hidden_scale)
    return replace(
        direction,
        weight_ih=weight_ih,
        weight_hh=weight_hh,
        input_scale=input_scale,
        hidden_scale=hidden_scale,
    )


def _absorb(weight: FloatArray, scale: FloatArray) -> tuple[FloatArray, FloatArray]:
    if (scale != scale[0]).any():
        return weight, scale
    return scale[0][:, None] * weight, np.ones_like(scale)


def _merge_rows(values: FloatArray, allowed: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
    """Merge the rows of (K, F), none of whose values may move by more than is `allowed`.

    Returns:
        The merged rows, and for each of the K rows its index among them.
    """
    groups: list[FloatArray] = []
    group_of = np.zeros(len(values), dtype=np.int64)
    low = high = values[0]
    room = allowed[0]
    for k, row in enumerate(values):
        lower, higher = np.minimum(low, row), np.maximum(high, row)
        tighter = np.minimum(room, allowed[k])
        if ((higher - lower) / 2 > tighter).any():
            groups.append(low + (high - low) / 2)
            low, high, room = row, row, allowed[k]
        else:
            low, high, room = lower, higher, tighter
        group_of[k] = len(groups)
    groups.append(low + (high - low) / 2)
    return np.stack(groups), group_of


def _trim(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Drop the timesteps at the end that repeat the last entry, but one."""
    different = np.flatnonzero(rows != rows[-1])
    return rows[: different[-1] + 2] if len(different) else rows[:1]
