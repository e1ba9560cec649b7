"""How far outputs are from the truth: one number a case, and curves over the timesteps."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.verification.measuring.backend import OfBackend

Stage = Literal["algebra", "precision", "conditions", "worst case", "data"]

SENSITIVE = 4.0
"""Times its sensitivity that a value may be off, whatever the yardstick of the others.

Where a normalization has a variance near 0 its scale is in the hundreds, and a single value can
turn the rounding of an activation function into an error far above that of all others. Which
value, and by how much, is luck, in the graph as in the training model, so the latter's error is no
measure of the former's. Its sensitivity is: how far it moves if every sigmoid and tanh is off by
3e-7, the error of ONNX Runtime's CPU kernels (torch's are 2 to 10 times more exact).
"""

Values = NDArray[np.generic]


@dataclass(frozen=True)
class Comparison(OfBackend):
    """The error of one output in one case, against the float64 training model.

    A file whose rows were merged with a tolerance is compared with the fold merged likewise, in
    float64: what the merge itself changes is `Report.merge_error`.
    """

    stage: Stage
    """What is checked: the fold in float64, or the exported graph."""
    case: str
    """What was run: timesteps, streams and conditions."""
    time: int
    """T of the case."""
    value: str
    """The output: `output`, `h_n`, `c_n`, `next_step`, ...."""
    error: float
    """Largest absolute error of what is checked."""
    unexplained: float
    """The same of values not so sensitive themselves; this is judged. See `SENSITIVE`."""
    own_error: float
    """Largest absolute error of the training model in the graph's dtype, the yardstick."""
    activation_error: float
    """Largest absolute error that activation functions off by 3e-7 cause; see `noise`."""
    fold_error: float
    """Largest absolute error of the fold, rounded to the graph's dtype and run by numpy in it."""
    magnitude: float
    """Largest absolute value of the truth."""
    relative_l2: float = 0.0
    """Euclidean norm of the error over that of the truth."""
    p99: float = 0.0
    """99th percentile of the absolute errors."""
    inputs: str = "normal"
    """Kind of inputs: cases of different kinds do not share a yardstick."""

    @property
    def noise(self) -> float:
        """The error that rounding explains: the larger of the two yardsticks."""
        return max(self.own_error, self.fold_error)

    @property
    def kind(self) -> tuple[int, str, str]:
        """What comparisons share that are judged by one yardstick."""
        return self.time, self.value, self.inputs


@dataclass(frozen=True)
class Curve(OfBackend):
    """Errors of one output over the timesteps: at each the largest of all cases of that T."""

    time: int
    """T."""
    value: str
    """The output."""
    error: tuple[float, ...]
    """(T,), largest absolute error of the graph at each timestep; likewise the others."""
    own_error: tuple[float, ...]
    activation_error: tuple[float, ...]
    fold_error: tuple[float, ...]
    relative_l2: tuple[float, ...]
    p99: tuple[float, ...]
    unexplained: tuple[float, ...]
    """The errors that are judged: without those that `SENSITIVE` values explain."""

    def merged(self, other: "Curve") -> "Curve":
        """Return the larger of two curves at each timestep."""
        key = ("provider", "time", "value", "kernel")
        names = [f.name for f in fields(self) if f.name not in key]
        larger: dict[str, Any] = {
            name: tuple(np.fmax(getattr(self, name), getattr(other, name)).tolist())
            for name in names
        }
        return replace(self, **larger)


@dataclass(frozen=True)
class Scales:
    """The largest folded scale of one layer and direction at each step: the gain there."""

    name: str
    """Module path and parameter suffix: `rnn_l0_reverse`."""
    input: tuple[float, ...]
    """(S,); likewise the others."""
    hidden: tuple[float, ...]
    cell: tuple[float, ...]


@dataclass(frozen=True)
class Runs:
    """One output, of all that was run in a case."""

    checked: Values
    """Of what is checked."""
    own: Values
    """Of the training model in the graph's dtype."""
    sensitivity: NDArray[np.float64]
    """How far activation functions off by 3e-7 take the training model in float64."""
    folded: Values
    """Of the fold in the graph's dtype, run by numpy."""
    truth: Values
    """Of the training model in float64."""
    target: Values
    """What `checked` ought to be: the truth, or that of the merged fold in float64."""


def compare(stage: Stage, case: str, time: int, value: str, runs: Runs, **facts: Any) -> Comparison:  # noqa: ANN401
    """Measure one output; all arrays have one shape.

    Args:
        stage: What is checked.
        case: What was run.
        time: T of the case.
        value: The output's name.
        runs: The output's values.
        facts: Further fields of the comparison.
    """
    exact = runs.truth.astype(np.float64)
    same_shape = runs.checked.shape == runs.target.shape
    errors = _errors(runs.checked, runs.target) if same_shape else np.array([math.inf])
    norm = float(np.linalg.norm(exact))
    return Comparison(
        stage=stage,
        case=case,
        time=time,
        value=value,
        error=largest(errors),
        unexplained=largest(_unexplained(errors, runs)),
        own_error=distance(runs.own, exact),
        activation_error=largest(runs.sensitivity),
        fold_error=distance(runs.folded, exact),
        magnitude=largest(np.abs(exact)),
        relative_l2=float(np.linalg.norm(errors)) / norm if norm > 0 else 0.0,
        p99=float(_p99(errors, None)) if errors.size else 0.0,
        **facts,
    )


def curve(time: int, value: str, runs: Runs, axis: int, *, provider: str, kernel: str) -> Curve:
    """Measure one output at each timestep.

    Args:
        time: T.
        value: The output's name.
        runs: The output's values, of one shape.
        axis: That of time.
        provider: Of the graph.
        kernel: Likewise.
    """

    def steps(array: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)

    def largest_at(errors: NDArray[np.float64]) -> tuple[float, ...]:
        return tuple(steps(errors).max(axis=1, initial=0).tolist())

    checked = _errors(runs.checked, runs.target)
    errors = steps(checked)
    norms = np.linalg.norm(steps(runs.truth.astype(np.float64)), axis=1)
    relative = np.linalg.norm(errors, axis=1) / np.where(norms > 0, norms, 1)
    return Curve(
        provider=provider,
        time=time,
        value=value,
        error=largest_at(checked),
        own_error=largest_at(_errors(runs.own, runs.truth)),
        activation_error=largest_at(runs.sensitivity),
        fold_error=largest_at(_errors(runs.folded, runs.truth)),
        relative_l2=tuple(relative.tolist()),
        p99=tuple(_p99(errors, 1).tolist()) if errors.size else (0.0,) * time,
        unexplained=largest_at(_unexplained(checked, runs)),
        kernel=kernel,
    )


def _unexplained(errors: NDArray[np.float64], runs: Runs) -> NDArray[np.float64]:
    """Return the errors that the sensitivity of the value itself does not explain, else 0."""
    if errors.shape != runs.sensitivity.shape:
        return errors
    return np.where(errors <= SENSITIVE * runs.sensitivity, 0.0, errors)


def distance(one: Values, other: Values) -> float:
    """Return the largest absolute difference; infinity for arrays of different shapes."""
    if one.shape != other.shape:
        return math.inf
    return largest(_errors(one, other))


def largest(values: Iterable[float] | NDArray[np.float64]) -> float:
    """Return the largest, NaN if any is NaN, 0 for none."""
    array = values if isinstance(values, np.ndarray) else np.fromiter(values, np.float64)
    return float(np.max(array, initial=0.0))


def _p99(errors: NDArray[np.float64], axis: int | None) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # between two infinities
        return np.asarray(np.quantile(errors, 0.99, axis=axis))


def _errors(one: Values, other: Values) -> NDArray[np.float64]:
    return np.abs(one.astype(np.float64) - other.astype(np.float64))
