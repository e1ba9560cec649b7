"""The arrays of a checkpoint, read as its layout says."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnlstm_deploy.checkpoint.layout import GATES, Normalization
from bnlstm_deploy.checkpoint.match import Match, Place, Steps, keys_of, shortened
from bnlstm_deploy.checkpoint.read import read_floats
from bnlstm_deploy.errors import CheckpointError, LayoutError
from bnlstm_deploy.nn import NormPath

Array = NDArray[np.float64]


@dataclass
class NormArrays:
    """One normalization. Each array is (S, F), with an S of its own; 1 where shared over time."""

    mean: Array
    var: Array
    gamma: Array
    beta: Array | None
    count: Array
    """(S,), minibatches: 0 for rows that training never updated."""


class Source:
    """The arrays of a matched checkpoint, in float64 and in torch's order of gates.

    Wrong shapes are collected while arrays are read, and reported by `check` all at once.

    Args:
        found: A complete match.
        tensors: The checkpoint.

    Attributes:
        hidden_size: H.

    Raises:
        CheckpointError: NaN or infinity in an array.
    """

    def __init__(self, found: Match, tensors: Mapping[str, Tensor]) -> None:
        self.found = found
        self.tensors = tensors
        self.problems: list[str] = []
        self.damaged: list[str] = []
        self.in_out = found.layout.weights.orientation == "in_out"
        first = found.get("weights.hidden", next(iter(found.places())))
        hidden = self._array(first, 1 if self.in_out else 0)
        self.hidden_size = min(hidden.shape, default=0)
        if self.found.layout.weights.orientation is None:
            self.in_out = hidden.shape == (self.hidden_size, 4 * self.hidden_size)

    def check(self) -> None:
        """Raise CheckpointError if any array had a wrong shape, or NaN or infinity in it."""
        if self.damaged:
            raise CheckpointError(
                f"NaN or infinity in {shortened(sorted(set(self.damaged)))}; the training "
                "diverged, or the file is damaged"
            )
        if self.problems:
            lines = "\n  ".join(dict.fromkeys(self.problems))
            name = self.found.layout.name
            raise CheckpointError(f"shapes contradict each other, by the layout {name}:\n  {lines}")

    def weights(self, place: Place) -> dict[str, Array]:
        """Return weight_ih, weight_hh and, where there is a bias, bias_ih and a bias_hh of 0."""
        arrays = {
            "weight_ih": self.weight("input", place),
            "weight_hh": self.weight("hidden", place),
        }
        biases = [self._forget()] if self.found.layout.bias.forget else []
        for path in ("input", "hidden"):
            bias = None if self._is_inside(path) else self.bias(path, place)
            biases += [] if bias is None else [bias]
        if biases:
            arrays |= {"bias_ih": np.sum(biases, axis=0), "bias_hh": np.zeros_like(biases[0])}
        return arrays

    def weight(self, path: NormPath, place: Place) -> Array:
        """Return the input weight (4H, D) or the hidden weight (4H, H)."""
        steps = self.found.get(f"weights.{path}", place)
        array = self._array(steps, 1 if self.in_out else 0)
        gates, width = 4 * self.hidden_size, str(self.hidden_size if path == "hidden" else "D")
        matrix = array.T if self.in_out else array
        fits = array.ndim == 2 and len(matrix) == gates
        if not fits or (path == "hidden" and matrix.shape[1] != self.hidden_size):
            shape = f"({width}, {gates})" if self.in_out else f"({gates}, {width})"
            return self._wrong(steps, array, shape, (gates, 1))
        return self._gates(matrix.T).T

    def bias(self, path: NormPath, place: Place) -> Array | None:
        """Return the sum of the biases of a product, (4H,), or None."""
        total = None
        hidden = path == "hidden"
        keys = self.found.layout.bias.hidden if hidden else self.found.layout.bias.keys
        for number in range(len(keys)):
            steps = self.found.get(f"{'hidden_bias' if hidden else 'bias'}.{number}", place)
            if steps:
                bias = self._gates(self._vector(steps, 4 * self.hidden_size))
                total = bias if total is None else total + bias
        return total

    def norm(self, path: NormPath, norm: Normalization, place: Place) -> NormArrays:
        """Return one normalization."""

        def rows(kind: str) -> Array | None:
            steps = self.found.get(f"{path}.{kind}", place)
            return self._rows(steps, path) if steps else None

        mean, std, var, gamma, beta = map(rows, ("mean", "std", "var", "gamma", "beta"))
        assert mean is not None
        if var is None:
            assert std is not None
            var = np.square(std)
        if len(var) != len(mean):
            self.problems.append(f"{path}: {len(mean)} rows of means and {len(var)} of variances")
            var = mean
        # a row at its initial values was never updated, whatever a count for all rows says
        seen = (mean != 0).any(1) | (var != 1).any(1)
        keys = keys_of(self.found.get(f"{path}.count", place))
        minibatches = [_count(key, self.tensors[self.found.prefix + key]) for key in keys]
        count = np.where(seen, float(max([1, *minibatches])), 0)
        gamma = np.ones((1, mean.shape[1])) if gamma is None else gamma
        if self._is_inside(path):
            bias = self.bias(path, place)  # BN(W x + b) has the mean of W x + b
            mean = mean if bias is None else mean - bias
        if not norm.first_step:
            mean, var, count = (np.concatenate([a[:1], a]) for a in (mean, var, count))
            gamma = np.concatenate([np.zeros_like(gamma[:1]), gamma])
            beta = None if beta is None else np.concatenate([np.zeros_like(beta[:1]), beta])
        return NormArrays(mean, var, gamma, beta, count)

    def initial_state(self) -> dict[str, Array]:
        """Return h_0 and c_0, (layers * directions, H), or nothing if streams start from 0."""
        arrays: dict[str, Array] = {}
        for name in ("h", "c"):
            keys = [self.found.get(f"state.{name}", place) for place in self.found.places()]
            if not all(keys):
                return {}
            states = [self._state(steps, row) for row, steps in enumerate(keys)]
            arrays[f"{name}_0"] = np.stack(states)
        return arrays if any(array.any() for array in arrays.values()) else {}

    def _state(self, steps: Steps, row: int) -> Array:
        """Return the initial state (H,) of a row."""
        array = self._array(steps)
        axes = self.found.layout.state.axes
        if array.ndim != len(axes):
            return self._wrong(steps, array, f"axes {', '.join(axes)}", (self.hidden_size,))
        array = array.transpose([axes.index(a) for a in ("row", "batch", "hidden") if a in axes])
        if "row" in axes:
            rows = self.found.num_layers * len(self.found.directions)
            if len(array) != rows:
                return self._wrong(steps, array, f"{rows} rows", (self.hidden_size,))
            array = array[row]
        if "batch" in axes:
            if (array != array[:1]).any():
                raise LayoutError(
                    f"{self._names(steps)} differs between streams, so it is no initial state of "
                    "all; store one stream's, and pass others when the graph is run"
                )
            array = array[0]
        if array.shape != (self.hidden_size,):
            return self._wrong(steps, array, f"H = {self.hidden_size} values", (self.hidden_size,))
        return array

    def _rows(self, steps: Steps, path: NormPath) -> Array:
        """Return (S, F) in torch's order of gates."""
        features = self.hidden_size * (1 if path == "cell" else 4)
        array = self._array(steps)
        array = array[None] if array.ndim == 1 else array
        if array.ndim != 2 or array.shape[1] != features or not len(array):
            return self._wrong(steps, array, f"({features},) or (S, {features})", (1, features))
        return array if path == "cell" else self._gates(array)

    def _vector(self, steps: Steps, size: int) -> Array:
        array = self._array(steps)
        if array.size != size:
            return self._wrong(steps, array, f"({size},)", (size,))
        return array.reshape(size)

    def _gates(self, array: Array) -> Array:
        """Reorder the last axis, 4H, to torch's i, f, g, o."""
        order = [self.found.layout.weights.gates.index(gate) for gate in GATES]
        if self.found.layout.weights.interleaved:
            units = array.reshape(*array.shape[:-1], -1, 4)[..., order]
            return np.ascontiguousarray(units.swapaxes(-1, -2)).reshape(array.shape)
        return array.reshape(*array.shape[:-1], 4, -1)[..., order, :].reshape(array.shape)

    def _is_inside(self, path: NormPath) -> bool:
        """Whether the bias of a product is inside of its normalization."""
        return path in self.found.layout.bias.inside and self.found.has(path)

    def _forget(self) -> Array:
        bias = np.zeros((4, self.hidden_size))
        bias[GATES.index("f")] = self.found.layout.bias.forget
        return bias.ravel()

    def _array(self, steps: Steps, gate_axis: int = -1) -> Array:
        """Return what lies under the keys: one array, or the stack of those of every step.

        Args:
            steps: The keys.
            gate_axis: The axis of the gates, along which the arrays of each gate are joined.
        """
        every = [steps[step] for step in sorted(steps, key=lambda s: s or 0)]
        keys = [self.found.prefix + key for gates in every for key in gates.values()]
        parts = [read_floats(key, self.tensors[key]).numpy() for key in keys]
        if len({part.shape for part in parts}) > 1:
            what = "one shape at all steps and gates"
            return self._wrong(steps, parts[-1], what, parts[0].shape)
        if None not in every[0] and parts[0].ndim:
            names = self.found.layout.weights.names
            held = dict(zip(keys, parts, strict=True))
            arrays = [
                np.concatenate([held[self.found.prefix + gates[name]] for name in names], gate_axis)
                for gates in every
            ]
        else:
            arrays = parts
        array: Array = arrays[0] if None in steps else np.stack(arrays)
        if not array.size:
            return self._wrong(steps, array, "at least one value", (1,))
        if not np.isfinite(array).all():
            self.damaged += [
                key for key, part in zip(keys, parts, strict=True) if not np.isfinite(part).all()
            ]
        return array

    def _names(self, steps: Steps) -> str:
        return shortened([self.found.prefix + key for key in keys_of(steps)])

    def _wrong(self, steps: Steps, array: Array, expected: str, stand_in: tuple[int, ...]) -> Array:
        """Note a wrong shape, and return something of the right one to go on with."""
        self.problems.append(f"{self._names(steps)} has shape {array.shape}; expected {expected}")
        return np.ones(stand_in)


def _count(key: str, tensor: Tensor) -> int:
    """Return the largest of counted minibatches.

    Raises:
        CheckpointError: They are none.
    """
    if tensor.dtype != torch.int64 or tensor.is_meta or not tensor.numel():
        raise CheckpointError(
            f"{key} is {tensor.dtype} of shape {tuple(tensor.shape)}; it must be "
            "an int64 count of minibatches"
        )
    return int(tensor.max())
