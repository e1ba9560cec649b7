"""What a check found, and how it is judged."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.metadata import Metadata

ALGEBRA_LIMIT = 1e-10
"""Error of the float64 fold, and of a float64 graph, relative to the largest true magnitude."""

FLOOR_ULPS = 8
"""Float32 errors below this many ULP of the largest true magnitude always pass."""

FLOAT32_EPS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Comparison:
    """The error of one output in one case, against the float64 training model."""

    case: str
    """What was run: timesteps, streams and conditions."""
    time: int
    """T of the case."""
    value: str
    """The output: `output`, `h_n`, `c_n`, `next_step`, ...."""
    error: float
    """Largest absolute error of what is checked."""
    own_error: float
    """Largest absolute error of the training model in float32, the yardstick."""
    activation_error: float
    """Largest absolute error that activation functions off by 3e-7 cause; see `noise`."""
    magnitude: float
    """Largest absolute value of the truth."""

    @property
    def kind(self) -> tuple[int, str]:
        """What comparisons share that are judged by one yardstick."""
        return self.time, self.value


@dataclass(frozen=True)
class Report:
    """The result of `verify`."""

    algebra: tuple[Comparison, ...]
    """The fold, evaluated in float64."""
    precision: tuple[Comparison, ...]
    """The exported graph."""
    metadata: Metadata
    """Of the exported file."""
    checkpoint_sha256: str
    """Of the training model checked against."""
    ratio_limit: float
    """How many times the training model's own float32 error the graph's may be."""
    seed: int

    @property
    def passed(self) -> bool:
        """Whether no comparison failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Comparison, ...]:
        """The comparisons whose error is over its budget, or is not a number."""
        return tuple(c for c in (*self.algebra, *self.precision) if not c.error <= self.budget(c))

    @property
    def algebra_error(self) -> float:
        """The largest error of the fold in float64, relative to the largest true magnitude."""
        return _largest(c.error / c.magnitude for c in self.algebra if c.magnitude > 0)

    @property
    def ratio(self) -> float:
        """The graph's largest error over the training model's own, of the worst output."""
        worst: dict[str, tuple[float, float]] = {}
        for c in self.precision:
            error, own = worst.get(c.value, (0.0, 0.0))
            worst[c.value] = (_largest((error, c.error)), max(own, c.own_error))
        return _largest(error / own for error, own in worst.values() if own > 0)

    def budget(self, comparison: Comparison) -> float:
        """Return the largest error that passes.

        A float64 graph is held to the algebra's limit. For a float32 graph the yardstick is the
        training model's own error, or that of inexact activation functions where it is larger; of
        either the largest in all cases of that many timesteps, since that of a single short case
        is luck. To `ratio_limit` times that comes a floor of a few ULP.
        """
        if comparison in self.algebra or self.metadata.dtype == "float64":
            return ALGEBRA_LIMIT * comparison.magnitude
        floor = FLOOR_ULPS * FLOAT32_EPS * comparison.magnitude
        alike = [c for c in self.precision if c.kind == comparison.kind]
        yardstick = max(max(c.own_error, c.activation_error) for c in alike)
        return self.ratio_limit * yardstick + floor

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        return {
            "passed": self.passed,
            "ratio": self.ratio,
            "ratio_limit": self.ratio_limit,
            "algebra_error": self.algebra_error,
            "algebra_limit": ALGEBRA_LIMIT,
            "seed": self.seed,
            "checkpoint_sha256": self.checkpoint_sha256,
            "metadata": asdict(self.metadata),
            "algebra": [asdict(c) | {"budget": self.budget(c)} for c in self.algebra],
            "precision": [asdict(c) | {"budget": self.budget(c)} for c in self.precision],
        }


def compare(
    case: str,
    time: int,
    value: str,
    checked: NDArray[np.generic],
    own: NDArray[np.generic],
    noisy: NDArray[np.generic],
    truth: NDArray[np.generic],
) -> Comparison:
    """Measure one output; all arrays have one shape."""
    exact = truth.astype(np.float64)
    return Comparison(
        case=case,
        time=time,
        value=value,
        error=_distance(checked, exact),
        own_error=_distance(own, exact),
        activation_error=_distance(noisy, exact),
        magnitude=float(np.abs(exact).max()),
    )


def _distance(array: NDArray[np.generic], exact: NDArray[np.float64]) -> float:
    if array.shape != exact.shape:
        return float("inf")
    return float(np.abs(array.astype(np.float64) - exact).max())


def _largest(values: Iterable[float]) -> float:
    """Return the largest, NaN if any is NaN, 0 for none."""
    return float(np.max([0.0, *values]))
