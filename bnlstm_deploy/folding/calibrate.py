"""Weights in int8, rounded for what they are multiplied with on data.

Of a row w of a weight and its inputs v with the second moments M = E[v v^T], the error of the
product with the rounded row r is sqrt((w - r)^T M (w - r)). So each row gets the scale that makes
it smallest, of those that clip the row's largest elements, and the error of an element is made up
for by those that are rounded after it, as GPTQ does (Frantar et al. 2022, "GPTQ: Accurate
Post-Training Quantization for Generative Pre-trained Transformers").

Each element becomes one of the two levels on either side of it, never one beyond: so a file can be
checked without the data.
"""

from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.errors import FoldError
from bnlstm_deploy.folding.folded import FloatArray, FoldedDirection, IntArray

LARGEST = 127
"""Of int8, on either side of 0."""

PARTS = 64
CLIPS = np.arange(PARTS, PARTS // 2 - 1, -1) / PARTS
"""Which part of a row's largest element may become 127, if not all of it: rows of few outliers."""

DAMPING = 0.01
"""Of the mean of M's diagonal, added to it: data are few, and features may be equal."""


class Levels(NamedTuple):
    """A weight in int8."""

    levels: FloatArray
    """(rows, inputs), integers from -127 to 127."""
    scale: FloatArray
    """(rows,); the weight is `scale * levels`."""


class Calibrated(NamedTuple):
    """The weights of a direction in int8."""

    weight_ih: Levels
    weight_hh: Levels


@dataclass
class Moments:
    """Sums of v v^T over data, of what a direction's weights are multiplied with."""

    x: FloatArray
    """(D, D)"""
    h: FloatArray
    """(H, H)"""
    count: int = 0
    """Of timesteps that were added."""

    @classmethod
    def of(cls, direction: FoldedDirection) -> "Moments":
        """Return those of no data."""
        x, h = (np.zeros((n, n)) for n in (direction.input_size, direction.hidden_size))
        return cls(x, h)

    def add(self, x: FloatArray, h: FloatArray) -> None:
        """Add timesteps: x (M, D) and the h (M, H) before them."""
        self.x += x.T @ x
        self.h += h.T @ h
        self.count += len(x)


@dataclass(frozen=True, eq=False)
class Observed(FoldedDirection):
    """A direction that adds what it is run on to moments."""

    moments: Moments = field(kw_only=True)

    @classmethod
    def of(cls, direction: FoldedDirection) -> "Observed":
        """Return the same direction, with moments of no data."""
        arrays = {f.name: getattr(direction, f.name) for f in fields(FoldedDirection)}
        return cls(**arrays, moments=Moments.of(direction))

    def run(
        self, x: FloatArray, h: FloatArray, c: FloatArray, lengths: IntArray, step: IntArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Compute what the direction does, and observe it."""
        result = super().run(x, h, c, lengths, step)
        before = np.concatenate([np.broadcast_to(h, result[0].shape[1:])[None], result[0][:-1]])
        valid = np.arange(len(x))[:, None] < lengths
        self.moments.add(x[valid], before[: len(x)][valid])
        return result


def calibrate(direction: FoldedDirection, moments: Moments) -> Calibrated:
    """Round the weights of a direction.

    Args:
        direction: In float64.
        moments: Of data, over the same direction.

    Raises:
        FoldError: There were no data, or they are not finite.
    """
    if moments.count == 0:
        raise FoldError("the calibration data have no timestep; pass sequences that have some")
    if not (np.isfinite(moments.x).all() and np.isfinite(moments.h).all()):
        raise FoldError(
            "the calibration data, or what the model makes of them, are not finite or too large; "
            "pass numbers like those that it was trained with"
        )
    return Calibrated(
        round_weight(direction.weight_ih, moments.x / moments.count),
        round_weight(direction.weight_hh, moments.h / moments.count),
    )


def round_weight(weight: FloatArray, moments: FloatArray) -> Levels:
    """Round a weight (rows, inputs) for inputs with the second moments (inputs, inputs)."""
    mean = float(np.diag(moments).mean()) if len(moments) else 0.0
    damped = moments / (mean or 1.0) + (DAMPING if mean else 1.0) * np.eye(len(moments))
    scale = _scales(weight, damped)
    # the inputs with the largest moments first, while there are many left to make up for them
    order = np.argsort(-np.diag(damped), kind="stable")
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    factor = np.linalg.cholesky(inverse).T
    exact = weight[:, order] / scale[:, None]
    below, left = np.floor(exact), exact.copy()
    levels = np.empty_like(exact)
    for j in range(len(order)):
        nearest = np.clip(np.rint(left[:, j]), below[:, j], np.ceil(exact[:, j]))
        levels[:, j] = np.clip(nearest, -LARGEST, LARGEST)
        error = (left[:, j] - levels[:, j]) / factor[j, j]
        left[:, j + 1 :] -= np.outer(error, factor[j, j + 1 :])
    found = np.empty_like(levels)
    found[:, order] = levels
    return Levels(found, scale)


def whole_scale(weight: FloatArray) -> FloatArray:
    """Return the scale of each row by which its largest element is 127; 1 for a row of zeros."""
    largest = np.abs(weight).max(axis=1, initial=0)
    scale: FloatArray = np.where(largest > 0, largest, LARGEST) / LARGEST
    return scale


def levels_in_file(weight: FloatArray, levels: FloatArray, scale: FloatArray) -> Levels | None:
    """Return what `round_weight` may have made of a weight, from what a file holds.

    Args:
        weight: (rows, inputs), in float64.
        levels: (rows, inputs), as it is in the file.
        scale: (rows,), as near as the file's float32 says it; NaN where it says nothing.

    Returns:
        The levels and the exact scales; None if there are none of which each level is one of the
        two on either side of the weight.
    """
    whole = whole_scale(weight)
    with np.errstate(invalid="ignore"):
        part = np.rint(np.nan_to_num(scale / whole, nan=1.0) * PARTS) / PARTS
    if not np.isin(part, CLIPS).all():
        return None
    exact = np.clip(weight / (part * whole)[:, None], -LARGEST, LARGEST)
    near = np.abs(levels - exact) < 1 + 1e-9
    return Levels(levels, part * whole) if near.all() else None


def _scales(weight: FloatArray, moments: FloatArray) -> FloatArray:
    """Return the scale of each row with which its nearest levels have the smallest error."""
    whole = whole_scale(weight)
    best, chosen = np.full(len(weight), np.inf), whole
    for clip in CLIPS:
        scale = clip * whole
        levels = np.clip(np.rint(weight / scale[:, None]), -LARGEST, LARGEST)
        error = weight - scale[:, None] * levels
        loss: NDArray[np.float64] = np.einsum("ij,ij->i", error @ moments, error)
        better = loss < best
        best, chosen = np.where(better, loss, best), np.where(better, scale, chosen)
    return chosen
