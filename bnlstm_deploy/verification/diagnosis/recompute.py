"""One timestep of a layer in float64, and how far rounding may take a graph from it."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.dtypes import EPS
from bnlstm_deploy.folding import FoldedDirection

Array = NDArray[np.floating]

ROUNDINGS = 8.0
"""Roundings that a value is granted: that of each array, of each product and sum, and to spare."""

ACTIVATION = 5e-7
"""Absolute error that a float32 sigmoid or tanh is granted; ONNX Runtime's reach 3.1e-7."""


class Value(NamedTuple):
    """A value, and the largest error that rounding explains."""

    value: Array
    bound: Array

    def differs(self, other: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Return where another value is further away than that; not where this one is NaN."""
        with np.errstate(invalid="ignore"):
            near = np.abs(other.astype(np.float64) - self.value) <= self.bound
        differs: NDArray[np.bool_] = ~near & np.isfinite(self.value)
        return differs


def exact(value: NDArray[np.generic]) -> Value:
    """Return a value that the graph itself holds, so that it has no error."""
    return Value(value.astype(np.float64), np.zeros(value.shape))


@dataclass(frozen=True)
class Rounding:
    """What a graph computes in which precision."""

    eps: float
    product_eps: float
    """Of the operands and results of matrix products."""
    activation: float

    @classmethod
    def of(cls, dtype: str) -> "Rounding":
        """Return that of `float32` or `float64`; or `float16` or `bfloat16`, of products alone."""
        eps = min(EPS[dtype], EPS["float32"])
        return cls(eps, EPS[dtype], ACTIVATION * eps / EPS["float32"])

    def product(self, weight: Array, x: Array, scale: Array, bias: Array | float = 0.0) -> Value:
        """Return scale * (weight x) + bias, (N, 4H).

        Args:
            weight: (4H, F).
            x: (N, F).
            scale: (N, 4H).
            bias: (N, 4H).
        """
        value = scale * (x @ weight.T) + bias
        size = np.abs(scale) * (np.abs(x) @ np.abs(weight).T)
        summed = self.eps * 2 * math.sqrt(x.shape[1]) * size
        rounded = self.product_eps * ROUNDINGS * size
        return Value(value, summed + rounded + self.eps * ROUNDINGS * np.abs(bias))

    def sum(self, one: Value, other: Value) -> Value:
        """Return the sum of two values."""
        size = np.abs(one.value) + np.abs(other.value)
        bound = one.bound + other.bound + ROUNDINGS * self.eps * size
        return Value(one.value + other.value, bound)

    def cell(self, gates: Value, c: Value) -> Value:
        """Return sigmoid(f) * c + sigmoid(i) * tanh(g), (N, H), from the gates (N, 4H)."""
        i, f, g, _ = self._activations(gates)
        kept, added = f.value * c.value, i.value * g.value
        bound = f.bound * np.abs(c.value) + (f.value + f.bound) * c.bound
        bound += i.bound + g.bound + ROUNDINGS * self.eps * (np.abs(kept) + np.abs(added))
        return Value(kept + added, bound)

    def affine(self, c: Value, scale: Array, shift: Array) -> Value:
        """Return scale * c + shift, (N, H)."""
        scaled = scale * c.value
        size = np.abs(scaled) + np.abs(shift)
        return Value(scaled + shift, np.abs(scale) * c.bound + ROUNDINGS * self.eps * size)

    def output(self, gates: Value, affine: Value) -> Value:
        """Return sigmoid(o) * tanh(affine), (N, H), from the gates (N, 4H)."""
        o = self._activations(gates)[3]
        squashed = np.tanh(affine.value)
        bound = o.bound + np.minimum(affine.bound, 2.0) + self.activation + ROUNDINGS * self.eps
        bound += self.product_eps  # Y is an operand of the next layer's product
        return Value(o.value * squashed, bound)

    def _activations(self, gates: Value) -> list[Value]:
        """Return the activations of i, f, g and o; their slopes are at most 1/4, 1/4, 1 and 1/4."""
        values, bounds = (np.split(part, 4, axis=1) for part in gates)
        return [
            Value(_tanh(v), b + self.activation)
            if gate == "g"
            else Value(_sigmoid(v), b / 4 + self.activation)
            for gate, v, b in zip("ifgo", values, bounds, strict=True)
        ]


class StepInputs(NamedTuple):
    """What a timestep of a layer starts from: what the graph itself held there."""

    x: Array
    """(N, D)."""
    h: Value
    """(N, H)."""
    c: Value
    """(N, H); with an error if the graph does not show it."""
    k: NDArray[np.int64]
    """(N,), the rows of the statistics."""


class Step(NamedTuple):
    """A timestep of a layer in float64."""

    input_product: Value
    """(N, 4H), with its scale and the bias."""
    hidden_product: Value
    """(N, 4H), with its scale."""
    gates: Value
    """(N, 4H), before their activations."""
    cell: Value
    """(N, H)."""
    affine: Value
    """(N, H), what the output's tanh is taken of."""
    output: Value
    """(N, H)."""


def recompute(direction: FoldedDirection, before: StepInputs, rounding: Rounding) -> Step:
    """Compute a timestep from what the graph held before it.

    Args:
        direction: The fold in float64.
        before: What the graph held.
        rounding: What may differ because of the graph's precision.
    """
    d, k = direction, before.k
    x = rounding.product(d.weight_ih, before.x, d.input_scale[k], d.bias[k])
    h = rounding.product(d.weight_hh, d.h_operand(before.h.value), d.hidden_scale[k])
    gates = rounding.sum(x, h)
    c = rounding.cell(gates, before.c)
    affine = rounding.affine(c, d.cell_scale[k], d.cell_shift[k])
    return Step(x, h, gates, c, affine, rounding.output(gates, affine))


def _sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the exact limit, 0
        result: Array = 1 / (1 + np.exp(-x))
    return result


def _tanh(x: Array) -> Array:
    result: Array = np.tanh(x)
    return result
