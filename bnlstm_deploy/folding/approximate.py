"""What a file changes of a fold on purpose: merged rows, weights and activations in fewer bits."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bnlstm_deploy.errors import FoldError
from bnlstm_deploy.folding.calibrate import LARGEST, Calibrated, whole_scale
from bnlstm_deploy.folding.folded import FloatArray, FoldedDirection, FoldedLSTM
from bnlstm_deploy.folding.merge import absorb_scales, merge

INT8, FLOAT16 = "int8", "float16"

EXACT_INTEGERS = 2**24
"""Up to which every integer is a float32."""


class Approximation(NamedTuple):
    """How a fold is changed before it is rounded."""

    merge_tolerance: float = 0.0
    """How far values may move to merge rows; see `merge`."""
    weights: str | None = None
    """One of `dtypes.STORED`; None for the dtype of all else."""
    activations: str | None = None
    """`int8` for h in int8 as an operand of the hidden product, with weights in int8."""

    calibrated: Mapping[str, Calibrated] | None = None
    """The weights in int8 that data chose, by path and suffix of their layers and directions."""

    @property
    def exact(self) -> bool:
        """Whether the fold computes what it did."""
        return self == EXACT

    def apply(self, folded: FoldedLSTM, path: str = "") -> FoldedLSTM:
        """Return the fold that a file holds, in float64, of the BNLSTM at a path in its model."""
        return FoldedLSTM(
            tuple(
                tuple(
                    self.of(direction, f"{path}_l{k}{'_reverse' * reverse}")
                    for reverse, direction in enumerate(layer)
                )
                for k, layer in enumerate(folded.layers)
            )
        )

    def of(self, direction: FoldedDirection, name: str = "") -> FoldedDirection:
        """Return the fold of a direction that a file holds, in float64.

        Args:
            direction: The fold.
            name: By which `calibrated` has it.

        Raises:
            FoldError: The tolerance is negative, or a weight or a sum does not fit.
        """
        direction = absorb_scales(merge(direction, self.merge_tolerance))
        if self.weights is not None:
            calibrated = None if self.calibrated is None else self.calibrated.get(name)
            direction = quantize(direction, self.weights, calibrated)
        return direction if self.activations is None else round_h(direction)


EXACT = Approximation()


def quantize(
    direction: FoldedDirection, weights: str, calibrated: Calibrated | None = None
) -> FoldedDirection:
    """Round weights to what they are stored as, each to the nearest.

    In int8 each row of a weight, that of a gate, has a scale s of its own, by which its largest
    element is 127: `weight = s * q`. It becomes a factor of the gate's `input_scale` or
    `hidden_scale`, so that the equations stay what they are and the weights are q.

    Args:
        direction: In float64.
        weights: One of `dtypes.STORED`.
        calibrated: The weights in int8, if they are known already.

    Raises:
        FoldError: A weight is larger than any number of float16.
    """
    changed: dict[str, Any] = {}
    for weight, scale in (("weight_ih", "input_scale"), ("weight_hh", "hidden_scale")):
        values: FloatArray = getattr(direction, weight)
        if weights != INT8:
            changed[weight] = round_floats(values, weights)
            continue
        if calibrated is None:
            of_row = whole_scale(values)
            changed[weight] = np.rint(values / of_row[:, None])
        else:
            changed[weight], of_row = getattr(calibrated, weight)
        changed[scale] = getattr(direction, scale) * of_row
    return replace(direction, **changed)


def round_h(direction: FoldedDirection) -> FoldedDirection:
    """Have h rounded to multiples of 1/127, of which it is the integer in the hidden product.

    h is between -1 and 1, as o and a tanh are, except for initial states, which are clipped.

    Args:
        direction: With weights in int8.

    Raises:
        FoldError: A product of such integers may be larger than any that float32 has, in which the
            function body computes it.
    """
    largest = LARGEST * np.abs(direction.weight_hh).sum(axis=1).max(initial=0)
    if largest > EXACT_INTEGERS:
        raise FoldError(
            f"with activations in int8 a sum over {direction.hidden_size} hidden units may be "
            f"{largest:.0f}, and float32 has all integers up to {EXACT_INTEGERS} only; leave out "
            "activations"
        )
    scale = direction.hidden_scale / LARGEST
    return replace(direction, hidden_scale=scale, h_levels=LARGEST)


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
