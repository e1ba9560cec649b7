"""What a check found, and how it is judged."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.metadata import Metadata

ALGEBRA_LIMIT = 1e-10
"""Error of the float64 fold, and of a float64 graph, relative to the largest true magnitude."""

FLOOR_ULPS = 8
"""Float32 errors below this many ULP of the largest true magnitude always pass."""

CHAOS = 1e-2
"""A yardstick above this part of the largest true magnitude: the outputs are noise in float32.

Some models amplify rounding exponentially over time. Once it fills the output, how far float64 has
come apart cannot be told any more, and the comparison is left to the shorter cases.
"""

Stage = Literal["algebra", "precision"]

FLOAT32_EPS = float(np.finfo(np.float32).eps)
FLOAT64_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Comparison:
    """The error of one output in one case, against the float64 training model."""

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
        judged = [c for c in self.algebra if c.magnitude > 0 and not self.chaotic(c)]
        return _largest(c.error / c.magnitude for c in judged)

    @property
    def ratio(self) -> float:
        """The graph's largest error over the training model's own, of the worst output."""
        worst: dict[str, tuple[float, float]] = {}
        for c in self.precision:
            error, own = worst.get(c.value, (0.0, 0.0))
            worst[c.value] = (_largest((error, c.error)), max(own, c.own_error))
        return _largest(error / own for error, own in worst.values() if own > 0)

    def yardstick(self, comparison: Comparison) -> float:
        """Return the error that rounding to float32 makes in cases like this one.

        It is the training model's own error, or that of inexact activation functions where it is
        larger; of either the largest in all cases of that many timesteps, since that of a single
        short case is luck.
        """
        alike = [c for c in self.precision if c.kind == comparison.kind]
        return max(max(c.own_error, c.activation_error) for c in alike)

    def chaotic(self, comparison: Comparison) -> bool:
        """Whether the training model's own float32 output is noise in cases like this one."""
        return self.yardstick(comparison) > CHAOS * comparison.magnitude

    def budget(self, comparison: Comparison) -> float:
        """Return the largest error that passes.

        A float32 graph may be off by `ratio_limit` yardsticks and a floor of a few ULP. The fold
        and a float64 graph may be off by the algebra's limit, and by as much more as the yardstick
        shows that rounding is amplified; in chaotic cases by anything.
        """
        yardstick = self.ratio_limit * self.yardstick(comparison)
        if comparison.stage == "precision" and self.metadata.dtype == "float32":
            return yardstick + FLOOR_ULPS * FLOAT32_EPS * comparison.magnitude
        if self.chaotic(comparison):
            return math.inf
        return ALGEBRA_LIMIT * comparison.magnitude + yardstick * FLOAT64_EPS / FLOAT32_EPS

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
            "chaotic_timesteps": sorted({c.time for c in self.precision if self.chaotic(c)}),
            "algebra": [self._row(c) for c in self.algebra],
            "precision": [self._row(c) for c in self.precision],
        }

    def _row(self, comparison: Comparison) -> dict[str, Any]:
        budget = self.budget(comparison)
        return asdict(comparison) | {"budget": budget if math.isfinite(budget) else None}


def compare(
    stage: Stage,
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
        stage=stage,
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
