"""A folded batch-normalized LSTM: arrays, and what they compute, in numpy."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bnlstm_deploy.errors import FoldError

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

FLOATS = (
    "weight_ih",
    "weight_hh",
    "input_scale",
    "hidden_scale",
    "bias",
    "cell_scale",
    "cell_shift",
)
"""The arrays of a `FoldedDirection` that hold real numbers."""


class Materialized(NamedTuple):
    """The literal fold into the gate weights of every row."""

    weight_ih: FloatArray
    """(K, 4H, D)"""
    weight_hh: FloatArray
    """(K, 4H, H)"""


@dataclass(frozen=True, eq=False)
class FoldedDirection:
    """One layer and direction with its normalizations folded.

    For timestep t of a stream that consumed `step` timesteps before, with
    k = rows[min(step + t, S - 1)]:

        i, f, g, o = input_scale[k] * (weight_ih x) + hidden_scale[k] * (weight_hh h) + bias[k]
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(cell_scale[k] * c + cell_shift[k])

    S timesteps have statistics of their own, in K <= S rows: `merge` lets timesteps share a row.
    The two scales are kept apart from the weights (the *factored* view, K * 4H numbers); multiplied
    into them they give the *materialized* view, `materialized()`, with K * 4H * (D + H) numbers.

    Raises:
        FoldError: Arrays whose shapes contradict each other, or that are not finite.
    """

    weight_ih: FloatArray
    """(4H, D); gates in torch's order i, f, g, o. As trained, unless a scale was absorbed."""
    weight_hh: FloatArray
    """(4H, H); likewise."""
    input_scale: FloatArray
    """(K, 4H), gamma_x / sqrt(var_x + eps)."""
    hidden_scale: FloatArray
    """(K, 4H), gamma_h / sqrt(var_h + eps)."""
    bias: FloatArray
    """(K, 4H), b + beta_x + beta_h - input_scale * mean_x - hidden_scale * mean_h."""
    cell_scale: FloatArray
    """(K, H), gamma_c / sqrt(var_c + eps)."""
    cell_shift: FloatArray
    """(K, H), beta_c - cell_scale * mean_c."""
    rows: IntArray
    """(S,) int64, the row of each timestep; later timesteps use the last."""
    h_levels: int = 0
    """If it is not 0, the h of the first equation is `h_operand(h)`, an integer."""

    def __post_init__(self) -> None:
        if self.weight_ih.ndim != 2 or self.weight_hh.ndim != 2 or self.bias.ndim != 2:
            raise FoldError(
                f"weight_ih, weight_hh and bias have shapes {self.weight_ih.shape}, "
                f"{self.weight_hh.shape} and {self.bias.shape}; each must have two axes"
            )
        rows, hidden = len(self.bias), self.hidden_size
        expected = {
            "weight_ih": (4 * hidden, self.input_size),
            "weight_hh": (4 * hidden, hidden),
            "input_scale": (rows, 4 * hidden),
            "hidden_scale": (rows, 4 * hidden),
            "bias": (rows, 4 * hidden),
            "cell_scale": (rows, hidden),
            "cell_shift": (rows, hidden),
        }
        for name, shape in expected.items():
            array = getattr(self, name)
            if array.shape != shape:
                raise FoldError(f"{name} has shape {array.shape}; expected {shape}")
            if not np.isfinite(array).all():
                where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
                raise FoldError(f"{name}{list(where)} is {array[where]}; it must be finite")
        if self.rows.dtype != np.int64 or self.rows.ndim != 1 or not len(self.rows):
            raise FoldError(
                f"rows has dtype {self.rows.dtype} and shape {self.rows.shape}; expected int64 and "
                "one axis with an entry for each timestep"
            )
        lowest, highest = int(self.rows.min()), int(self.rows.max())
        if lowest < 0 or highest >= rows:
            raise FoldError(
                f"rows runs from {lowest} to {highest}; the arrays have rows 0 to {rows - 1}"
            )

    @property
    def input_size(self) -> int:
        """D."""
        return int(self.weight_ih.shape[1])

    @property
    def hidden_size(self) -> int:
        """H."""
        return int(self.weight_hh.shape[1])

    @property
    def steps(self) -> int:
        """S, the number of timesteps with statistics of their own."""
        return len(self.rows)

    @property
    def normalizes_cell(self) -> bool:
        """Whether the cell's affine map changes anything."""
        return bool((self.cell_scale != 1).any() or (self.cell_shift != 0).any())

    def astype(self, dtype: DTypeLike) -> "FoldedDirection":
        """Return the same fold with every array rounded once to `dtype`.

        Raises:
            FoldError: A value does not fit into `dtype`.
        """
        with np.errstate(over="ignore"):
            return replace(self, **{name: getattr(self, name).astype(dtype) for name in FLOATS})

    def h_operand(self, h: FloatArray) -> FloatArray:
        """Return h as it is multiplied: with L levels round(L * h), at most L, of two the even."""
        if self.h_levels == 0:
            return h
        operand: FloatArray = np.clip(np.rint(h * self.h_levels), -self.h_levels, self.h_levels)
        return operand

    def materialized(self) -> Materialized:
        """Return the weights of every row, with the scales multiplied into them."""
        return Materialized(
            self.input_scale[:, :, None] * self.weight_ih,
            self.hidden_scale[:, :, None] * self.weight_hh,
        )

    def run(
        self, x: FloatArray, h: FloatArray, c: FloatArray, lengths: IntArray, step: IntArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Compute the equations of the class, timestep by timestep.

        Args:
            x: (T, N, D).
            h: (N, H).
            c: (N, H).
            lengths: (N,), 0..T. Past its length a stream's h and c are held, its output is 0.
            step: (N,), timesteps that each stream consumed before.

        Returns:
            The output (T, N, H), and the final h and c, each (N, H).
        """
        output = np.zeros((*x.shape[:2], self.hidden_size), dtype=self.bias.dtype)
        products = x @ self.weight_ih.T
        for t, product in enumerate(products):
            k = self.rows[np.minimum(step + t, self.steps - 1)]
            gates = product * self.input_scale[k] + self.bias[k]
            gates += (self.h_operand(h) @ self.weight_hh.T) * self.hidden_scale[k]
            i, f, g, o = np.split(gates, 4, axis=1)
            c_new = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
            h_new = _sigmoid(o) * np.tanh(self.cell_scale[k] * c_new + self.cell_shift[k])
            valid = (t < lengths)[:, None]
            h, c = np.where(valid, h_new, h), np.where(valid, c_new, c)
            output[t] = np.where(valid, h_new, 0)
        return output, h, c


@dataclass(frozen=True, eq=False)
class FoldedLSTM:
    """A folded stack of layers; time-major throughout."""

    layers: tuple[tuple[FoldedDirection, ...], ...]
    """For each layer its forward direction and, in a bidirectional model, its reverse one."""

    @property
    def num_directions(self) -> int:
        """1 or 2."""
        return len(self.layers[0])

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.layers[0][0].hidden_size

    @property
    def steps(self) -> int:
        """S, the number of timesteps with statistics of their own, of the direction with most."""
        return max(direction.steps for layer in self.layers for direction in layer)

    def map(self, change: Callable[[FoldedDirection], FoldedDirection]) -> "FoldedLSTM":
        """Return the fold whose directions are `change` of this one's."""
        return FoldedLSTM(tuple(tuple(map(change, layer)) for layer in self.layers))

    def astype(self, dtype: DTypeLike) -> "FoldedLSTM":
        """Return the same fold with every array rounded once to `dtype`."""
        return self.map(lambda direction: direction.astype(dtype))

    def run(
        self,
        x: FloatArray,
        state: tuple[FloatArray, FloatArray] | None = None,
        *,
        lengths: IntArray | None = None,
        step: int | IntArray = 0,
    ) -> tuple[FloatArray, tuple[FloatArray, FloatArray]]:
        """Run the folded model; the reference for what a graph or a kernel must compute.

        Args:
            x: (T, N, D).
            state: h and c, each (num_layers * num_directions, N, H); zeros by default.
            lengths: (N,), 0..T; T by default.
            step: Timesteps that the streams consumed before.

        Returns:
            The output (T, N, num_directions * H), and the final h and c.
        """
        time, batch, _ = x.shape
        rows = len(self.layers) * self.num_directions
        if state is None:
            zeros = np.zeros((rows, batch, self.hidden_size), dtype=x.dtype)
            state = (zeros, zeros)
        ends = np.full(batch, time) if lengths is None else np.asarray(lengths)
        steps = np.broadcast_to(np.asarray(step), (batch,))
        hs: list[FloatArray] = []
        cs: list[FloatArray] = []
        for layer in self.layers:
            outputs = []
            for reverse, direction in enumerate(layer):
                sequence = reverse_valid(x, ends) if reverse else x
                h, c = state[0][len(hs)], state[1][len(cs)]
                y, h, c = direction.run(sequence, h, c, ends, steps)
                outputs.append(reverse_valid(y, ends) if reverse else y)
                hs.append(h)
                cs.append(c)
            x = np.concatenate(outputs, axis=2)
        return x, (np.stack(hs), np.stack(cs))


def reverse_valid(sequence: FloatArray, lengths: IntArray) -> FloatArray:
    """Reverse each stream of (T, N, F) over its valid part; padding stays where it is."""
    time = np.arange(len(sequence))[:, None]
    source = np.where(time < lengths, lengths - 1 - time, time)
    reversed_: FloatArray = sequence[source, np.arange(sequence.shape[1])]
    return reversed_


def _sigmoid(x: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the exact limit, 0
        result: FloatArray = 1 / (1 + np.exp(-x))
    return result
