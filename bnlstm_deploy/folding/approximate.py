"""What a file changes of a fold on purpose: rows that are merged, weights in fewer bits."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bnlstm_deploy.errors import FoldError
from bnlstm_deploy.folding.folded import FloatArray, FoldedDirection
from bnlstm_deploy.folding.merge import absorb_scales, merge

INT8, FLOAT16 = "int8", "float16"

LARGEST = 127
"""Of int8, on either side of 0."""


class Approximation(NamedTuple):
    """How a fold is changed before it is rounded."""

    merge_tolerance: float = 0.0
    """How far values may move to merge rows; see `merge`."""
    weights: str | None = None
    """One of `dtypes.STORED`; None for the dtype of all else."""

    @property
    def exact(self) -> bool:
        """Whether the fold computes what it did."""
        return self == EXACT

    def of(self, direction: FoldedDirection) -> FoldedDirection:
        """Return the fold of a direction that a file holds, in float64.

        Raises:
            FoldError: The tolerance is negative, or a weight does not fit.
        """
        absorbed = absorb_scales(merge(direction, self.merge_tolerance))
        return absorbed if self.weights is None else quantize(absorbed, self.weights)


EXACT = Approximation()


def quantize(direction: FoldedDirection, weights: str) -> FoldedDirection:
    """Round weights to what they are stored as, each to the nearest.

    In int8 each row of a weight, that of a gate, has a scale s of its own, by which its largest
    element is 127: `weight = s * q`. It becomes a factor of the gate's `input_scale` or
    `hidden_scale`, so that the equations stay what they are and the weights are q.

    Args:
        direction: In float64.
        weights: One of `dtypes.STORED`.

    Raises:
        FoldError: A weight is larger than any number of float16.
    """
    changed: dict[str, Any] = {}
    for weight, scale in (("weight_ih", "input_scale"), ("weight_hh", "hidden_scale")):
        values: FloatArray = getattr(direction, weight)
        if weights != INT8:
            changed[weight] = round_floats(values, weights)
            continue
        largest = np.abs(values).max(axis=1, initial=0)
        of_row = np.where(largest > 0, largest, LARGEST) / LARGEST
        changed[weight] = np.rint(values / of_row[:, None])
        changed[scale] = getattr(direction, scale) * of_row
    return replace(direction, **changed)


def round_floats(values: FloatArray, dtype: str) -> FloatArray:
    """Round float64 to float16 or bfloat16, once; the result is float64.

    Raises:
        FoldError: A value is larger than any number of float16.
    """
    if dtype == FLOAT16:
        with np.errstate(over="ignore"):
            rounded = values.astype(np.float16).astype(np.float64)
        if not np.isfinite(rounded).all():
            raise FoldError(
                f"a weight is {np.abs(values).max():.4g}, and float16 ends at "
                f"{np.finfo(np.float16).max:.0f}; take bfloat16"
            )
        return rounded
    # numpy has none, and torch's way from float64 rounds twice: to 8 bits by hand, and fewer of
    # what is subnormal
    _, exponent = np.frexp(values)
    unit = np.maximum(exponent, -125) - 8
    result: FloatArray = np.ldexp(np.rint(np.ldexp(values, -unit)), unit)
    return result
