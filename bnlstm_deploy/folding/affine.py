"""A test-time batch normalization as the affine map that it is."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.errors import FoldError

Array = NDArray[np.float64]

Steps = NDArray[np.floating] | Mapping[int, NDArray[np.floating]]
"""Statistics of every timestep: an array (S, F), or vectors (F,) under the keys 0 .. S - 1."""


class Affine(NamedTuple):
    """y = scale[k] * x + shift[k] for statistics row k; both are (S, F), float64."""

    scale: Array
    shift: Array


def affine(
    mean: Steps,
    var: Steps,
    eps: float,
    gamma: NDArray[np.floating] | None = None,
    beta: NDArray[np.floating] | None = None,
) -> Affine:
    """Turn population statistics into a scale and a shift for each timestep, in float64.

        scale = gamma / sqrt(var + eps)
        shift = beta - scale * mean

    Args:
        mean: Means of S timesteps and F features.
        var: Variances, of the same shape.
        eps: The normalization's eps.
        gamma: (F,) or (S, F); 1 by default.
        beta: (F,) or (S, F); 0 by default.

    Raises:
        FoldError: A missing step, a wrong shape, a non-finite value, a negative variance, or
            `var + eps` equal to 0.
    """
    means = _rows("mean", mean)
    variances = _rows("variance", var)
    if means.shape != variances.shape:
        raise FoldError(
            f"the means have shape {means.shape}, the variances {variances.shape}; "
            "both must be (steps, features)"
        )
    if (variances < 0).any():
        step, feature = np.argwhere(variances < 0)[0]
        raise FoldError(
            f"the variance of step {step}, feature {feature} is {variances[step, feature]:g}; "
            "a variance cannot be negative. Re-estimate the statistics (recalibrate)"
        )
    if not np.isfinite(eps) or (variances + eps <= 0).any():
        raise FoldError(f"variance + eps is not positive everywhere (eps = {eps:g}); raise eps")
    ones, zeros = np.ones(means.shape[1]), np.zeros(means.shape[1])
    scale = _vector("gamma", gamma, ones, means.shape) / np.sqrt(variances + eps)
    return Affine(scale, _vector("beta", beta, zeros, means.shape) - scale * means)


def identity(features: int) -> Affine:
    """Return the affine map of a normalization that is switched off: scale 1, shift 0, S = 1."""
    return Affine(np.ones((1, features)), np.zeros((1, features)))


def extend(rows: Array, steps: int) -> Array:
    """Return `rows` (S', F) as (steps, F) with row k = min(step, S' - 1)."""
    return rows[np.minimum(np.arange(steps), len(rows) - 1)]


def _rows(name: str, values: Steps) -> Array:
    if isinstance(values, Mapping):
        missing = sorted(set(range(max(values, default=0) + 1)) - set(values))
        if missing:
            raise FoldError(
                f"the {name}s of steps {missing[:8]} are missing, out of {len(values)} present up "
                f"to step {max(values, default=-1)}; statistics must be there for every step from 0"
            )
        shapes = {np.shape(value) for value in values.values()}
        if len(shapes) > 1:
            raise FoldError(f"the {name}s of the steps differ in shape: {sorted(shapes)}")
        values = np.stack([values[step] for step in range(len(values))])
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise FoldError(f"the {name}s have shape {rows.shape}; pass (steps, features)")
    _check_finite(name, rows)
    return rows


def _vector(
    name: str, values: NDArray[np.floating] | None, default: Array, shape: tuple[int, ...]
) -> Array:
    vector = default if values is None else np.asarray(values, dtype=np.float64)
    if vector.shape not in (shape, shape[1:]):
        raise FoldError(f"{name} has shape {vector.shape}; pass {shape[1:]} or {shape}")
    _check_finite(name, vector)
    return vector


def _check_finite(name: str, values: Array) -> None:
    if not np.isfinite(values).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise FoldError(
            f"{name} holds {values[where]} at index {where}; every value must be finite. "
            "The checkpoint is damaged or its training diverged"
        )
