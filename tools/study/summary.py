"""Results of several seeds as means and intervals."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats  # type: ignore[import-untyped]

from tools.study.grid import experiments
from tools.study.runner import read

Line = dict[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and the half width of its 95 % confidence interval (Student's t)."""

    mean: float
    half: float
    """Not a number with one seed."""

    def text(self, digits: int, scale: float = 1.0) -> str:
        """Return it for a table."""
        mean = f"{self.mean * scale:.{digits}f}"
        return mean if math.isnan(self.half) else f"{mean} ± {self.half * scale:.{digits}f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Return mean and interval of one value for each seed."""
    count = len(values)
    if count < 2:
        return Estimate(values[0], math.nan)
    spread = statistics.stdev(values) / math.sqrt(count)
    return Estimate(statistics.fmean(values), float(stats.t.ppf(0.975, count - 1)) * spread)


@dataclass(frozen=True)
class Variant:
    """All seeds of one variant."""

    name: str
    lines: list[Line]

    def test(self, what: str = "recalibrated") -> Estimate:
        """Return the test's metric with one kind of statistics."""
        return estimate([line["test"][what] for line in self.lines])

    def curve(self, what: str) -> list[list[float]]:
        """Return a list for each epoch with a value for each seed."""
        curves = [line["curves"][what] for line in self.lines]
        return [list(values) for values in zip(*curves, strict=True)]


def variants(results: Path) -> dict[str, Variant]:
    """Return the variants of a results file by name, in the order of the grid."""
    found: dict[str, list[Line]] = {}
    for line in sorted(read(results), key=lambda line: line["experiment"]["seed"]):
        found.setdefault(line["variant"], []).append(line)
    names = [experiment.variant for experiment in experiments(results.stem)]
    return {name: Variant(name, found[name]) for name in dict.fromkeys(names) if name in found}
