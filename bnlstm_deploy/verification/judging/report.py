"""What a check found, and how it is judged."""

import html
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from bnlstm_deploy.codec import to_plain
from bnlstm_deploy.dtypes import EPS
from bnlstm_deploy.errors import VerificationError
from bnlstm_deploy.metadata import Metadata
from bnlstm_deploy.verification.judging.comparison import Comparison, Curve, Scales, Stage, largest
from bnlstm_deploy.verification.judging.cost import Cost
from bnlstm_deploy.verification.judging.structure import Finding
from bnlstm_deploy.verification.measuring.backend import FUNCTION_BODY, Backend
from bnlstm_deploy.verification.measuring.data import Agreement
from bnlstm_deploy.verification.measuring.search import WorstInput

SCHEMA_VERSION = 1

ALGEBRA_LIMIT = 1e-10
"""Error of the float64 fold, and of a float64 graph, relative to the largest true magnitude."""

FLOOR_ULPS = {"float32": 8, "float16": 1, "bfloat16": 1}
"""Errors below this many ULP of the largest true magnitude always pass, by the graph's dtype."""

LEVEL = 1 / 127
"""EPS where h is rounded to int8."""

CHAOS = 1e-2
"""A yardstick above this part of the largest true magnitude: the outputs are noise in float32.

Some models amplify rounding exponentially over time. Once it fills the output, how far float64 has
come apart cannot be told any more, and the comparison is left to the shorter cases.
"""

MORE = "where the fold's own rounding, sensitivity or a few ULP explain it"
"""Why an error may be more than the limit's multiple of the training model's own."""


@dataclass(frozen=True)
class StageResult:
    """The verdict of one stage."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, repr=False)
class Report:
    """The result of `verify`."""

    comparisons: tuple[Comparison, ...]
    metadata: Metadata
    """Of the exported file."""
    checkpoint_sha256: str
    """Of the training model checked against."""
    ratio_limit: float
    """How many times the training model's own error the graph's may be."""
    seed: int
    merge_error: float = 0.0
    """How far what the file changes on purpose, merged rows and weights stored in fewer bits, moves
    an output at most, in float64."""
    costs: tuple[Cost, ...] = ()
    """The same of the model's own outputs at each timestep, on inputs that are not extreme."""
    cost_limit: float | None = None
    """How far that may move an output at most; None for any distance."""
    curves: tuple[Curve, ...] = ()
    scales: tuple[Scales, ...] = ()
    structure: tuple[Finding, ...] = ()
    crashes: tuple[str, ...] = ()
    """Graphs that ended their process, and in which case."""
    agreements: tuple[Agreement, ...] = ()
    """What the user's data says beside errors, of each graph."""
    worst: WorstInput | None = None
    """The input on which the search found the largest error."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Versions, machine, date, hash of the file."""
    diagnosis: Mapping[str, Any] | None = None
    """Why it failed: `Diagnosis.to_dict()` or `NativeFailure.to_dict()`."""
    no_native: str = ""
    """Why the native kernel was not checked; empty if it was, or the CPU was no provider."""
    not_checked: tuple[str, ...] = ()
    """Cases that were left out, and why."""

    def __repr__(self) -> str:
        failed = [stage.name for stage in self.stages if not stage.passed]
        verdict = f"failed: {', '.join(failed)}" if failed else "passed"
        return f"<Report: {verdict}; {len(self.comparisons)} comparisons, ratio {self.ratio:.2f}>"

    def _repr_html_(self) -> str:
        """Show the stages in a notebook; the whole page is `write_html`'s."""
        rows = "".join(
            f"<tr><td>{html.escape(stage.name)}</td><td>{'passed' if stage.passed else 'FAILED'}"
            f"</td><td>{html.escape(stage.detail)}</td></tr>"
            for stage in self.stages
        )
        return f"<p>{html.escape(repr(self))}</p><table>{rows}</table>"

    @property
    def algebra(self) -> tuple[Comparison, ...]:
        """The fold, evaluated in float64."""
        return self.of_stage("algebra")

    @property
    def precision(self) -> tuple[Comparison, ...]:
        """The exported graph."""
        return self.of_stage("precision")

    def of_stage(self, stage: Stage) -> tuple[Comparison, ...]:
        """Return the comparisons of one stage."""
        return tuple(c for c in self.comparisons if c.stage == stage)

    @property
    def passed(self) -> bool:
        """Whether every stage passed."""
        return all(stage.passed for stage in self.stages)

    @cached_property
    def failures(self) -> tuple[Comparison, ...]:
        """The comparisons whose error is over its budget, or is not a number."""
        return tuple(c for c in self.comparisons if not c.unexplained <= self.budget(c))

    @cached_property
    def granted(self) -> tuple[Comparison, ...]:
        """The comparisons that pass over their budget, as the values there are that sensitive."""
        over = (c for c in self.comparisons if c.error > self.budget(c))
        return tuple(c for c in over if c.unexplained <= self.budget(c))

    @property
    def stages(self) -> tuple[StageResult, ...]:
        """The verdict of each stage, in order."""
        wrong = [finding for finding in self.structure if not finding.ok]
        results = [
            StageResult(
                "structure",
                not wrong,
                "; ".join(f"{f.name}: {f.detail}" for f in wrong)
                or f"{len(self.structure)} findings, all as expected",
            )
        ]
        if self.crashes:
            results.append(StageResult("providers", False, "; ".join(self.crashes)))
        details = {
            "algebra": f"fold in float64 off by {self.algebra_error:.1e} relative",
            "precision": f"{self.ratio:.2f} times the training model's own error",
            "conditions": "streams beside others, padding of NaN, extreme inputs",
            "worst case": "the inputs that gradient ascent found",
            "data": "" if self.agreement is None else str(self.agreement),
        }
        stages: tuple[Stage, ...] = ("algebra", "precision", "conditions", "worst case", "data")
        for name in stages:
            cases = {c.case for c in self.of_stage(name)}
            backends = {c.backend for c in self.of_stage(name)}
            if cases:
                failures = [c for c in self.failures if c.stage == name]
                text = f"{details[name]}; {len(cases)} cases"
                text += f" on {len(backends)} kernels" * (len(backends) > 1)
                granted = len({c.case for c in self.granted if c.stage == name})
                text += f", {granted} granted more by sensitivity" * (granted > 0)
                if name == "precision" and self.ratio > self.ratio_limit and not failures:
                    text += f"; above {self.ratio_limit:g} {MORE}"
                if name == "precision" and self.not_checked:
                    text += f", {len(self.not_checked)} not checked"
                if failures:
                    text += f", {len({c.case for c in failures})} failed"
                    where = dict.fromkeys(str(c.backend) for c in failures)
                    text += f" on {', '.join(where)}" * (len(backends) > 1)
                results.append(StageResult(name, not failures, text))
        if self.costs:
            results.append(self._cost_stage())
        return tuple(results)

    @property
    def judged_costs(self) -> tuple[Cost, ...]:
        """The costs that count: those of the user's data, or of random inputs without any."""
        of_data = tuple(c for c in self.costs if c.inputs == "data")
        return of_data or self.costs

    def _cost_stage(self) -> StageResult:
        found = self.judged_costs
        # what is not a number is worse than any
        errors = [math.inf if math.isnan(e) else e for e in (largest(c.largest) for c in found)]
        error = max(errors)
        worst = found[errors.index(error)]
        count = sum(c.count * len(c.mean) for c in found)
        mean = sum(c.count * sum(c.mean) for c in found) / max(count, 1)
        text = f"{self.metadata.changes} moves outputs by {error:.1e}, {mean:.1e} on average"
        if worst.inputs == "data":
            text += ", on your data"
        if len(worst.largest) > 1:
            text += f"; most at T = {worst.time}, timestep {int(np.argmax(worst.largest))}"
        if self.agreement is not None:
            text += f"; {self.agreement}"
        if self.cost_limit is None:
            return StageResult("cost", True, text)
        allowed = f"; {self.cost_limit:.1e} is allowed"
        return StageResult("cost", error <= self.cost_limit, text + allowed)

    @property
    def agreement(self) -> Agreement | None:
        """That of the graph with the most answers that do not agree; None without data."""
        return max(self.agreements, key=lambda a: a.answers - a.agreeing, default=None)

    @property
    def algebra_error(self) -> float:
        """The largest error of the fold in float64, relative to the largest true magnitude."""
        judged = [c for c in self.algebra if c.magnitude > 0 and not self.chaotic(c)]
        return largest(c.error / c.magnitude for c in judged)

    @property
    def ratio(self) -> float:
        """The graph's largest error over the training model's own, of the worst output."""
        worst: dict[str, tuple[float, float]] = {}
        for c in self.precision:
            error, own = worst.get(c.value, (0.0, 0.0))
            worst[c.value] = (largest((error, c.error)), max(own, c.own_error))
        return largest(error / own for error, own in worst.values() if own > 0)

    @property
    def truth_error(self) -> float:
        """The graph's largest absolute error against the truth, outside extreme inputs."""
        return largest(c.error for c in self.precision)

    @property
    def largest_errors(self) -> dict[tuple[str, Backend], tuple[float, float, float, float]]:
        """Of each output and backend the largest error, own error, 99th percentile, relative L2."""
        rows: dict[tuple[str, Backend], list[Comparison]] = {}
        for c in self.precision:
            rows.setdefault((c.value, c.backend), []).append(c)
        return {
            key: (
                *(largest(c.error for c in found), largest(c.own_error for c in found)),
                *(largest(c.p99 for c in found), largest(c.relative_l2 for c in found)),
            )
            for key, found in rows.items()
        }

    @property
    def chaotic_times(self) -> list[int]:
        """The T at which the training model's own output is noise."""
        return sorted({c.time for c in self.precision if self.chaotic(c)})

    @cached_property
    def _yardsticks(self) -> dict[tuple[int, str, str], float]:
        found: dict[tuple[int, str, str], float] = {}
        for c in self.comparisons:
            if c.stage != "algebra":
                found[c.kind] = max(found.get(c.kind, 0.0), c.noise)
        return found

    @property
    def _eps(self) -> float:
        """What the yardsticks are the rounding of."""
        return LEVEL if self.metadata.activations else EPS[self.metadata.dtype]

    def yardstick(self, comparison: Comparison) -> float:
        """Return the error that rounding makes in cases like this one.

        It is the training model's own error, or that of the fold in numpy where that is larger (a
        fold subtracts scale * mean where the training model subtracts the mean); of either the
        largest in all cases of that many timesteps and that kind of inputs, since that of a single
        short case is luck. Where h is rounded to int8, it is no less than what that does by
        itself: of two levels that are as near, other rounding before decides.
        """
        return max(comparison.noise, self._yardsticks.get(comparison.kind, 0.0))

    def chaotic(self, comparison: Comparison) -> bool:
        """Whether the training model's own output is noise in cases like this one."""
        limit = CHAOS * max(self._eps / EPS["float32"], 1)
        return self.yardstick(comparison) > limit * comparison.magnitude

    def budget(self, comparison: Comparison) -> float:
        """Return the largest error that passes.

        A graph may be off by `ratio_limit` yardsticks and a floor of a few ULP of its dtype. The
        fold and a float64 graph may be off by the algebra's limit, and by as much more as the
        yardstick, taken in float32 there, shows that rounding is amplified; in chaotic cases by
        anything.
        """
        yardstick = self.ratio_limit * self.yardstick(comparison)
        dtype = self.metadata.dtype
        if comparison.stage != "algebra" and dtype != "float64":
            return yardstick + FLOOR_ULPS[dtype] * EPS[dtype] * comparison.magnitude
        if self.chaotic(comparison):
            return math.inf
        amplified = EPS["float64"] / max(self._eps, EPS["float32"])
        return ALGEBRA_LIMIT * comparison.magnitude + yardstick * amplified

    def first_over(self, curve: Curve) -> int | None:
        """Return the first timestep at which an output's error is over budget, or None."""
        alike = [c for c in self.precision if (c.time, c.value) == (curve.time, curve.value)]
        budget = max((self.budget(c) for c in alike), default=math.inf)
        over = (step for step, error in enumerate(curve.unexplained) if not error <= budget)
        return next(over, None)

    def judged(self, ratio_limit: float, cost_limit: float | None = None) -> "Report":
        """Return the same measurements, judged with another ratio and limit of costs."""
        return replace(self, ratio_limit=ratio_limit, cost_limit=cost_limit)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold; `from_dict` is the inverse."""
        derived = {
            "schema_version": SCHEMA_VERSION,
            "passed": self.passed,
            "ratio": self.ratio,
            "algebra_error": self.algebra_error,
            "algebra_limit": ALGEBRA_LIMIT,
            "truth_error": self.truth_error,
            "stages": [asdict(stage) for stage in self.stages],
            "agreement": None if self.agreement is None else asdict(self.agreement),
            "granted": len(self.granted),
            "chaotic_timesteps": self.chaotic_times,
            "comparisons": [asdict(c) | {"budget": self.budget(c)} for c in self.comparisons],
            "curves": [asdict(c) | {"first_over": self.first_over(c)} for c in self.curves],
        }
        return to_plain(asdict(self) | derived)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Report":
        """Read what `to_dict` gave.

        Raises:
            VerificationError: It is of another schema, or damaged.
        """
        if content.get("schema_version") != SCHEMA_VERSION:
            raise VerificationError(
                f"the report's schema_version is {content.get('schema_version')!r}; this version "
                f"reads {SCHEMA_VERSION}. Run verify again"
            )
        try:
            # `to_plain` has made text of some numbers, which are numbers again if not strict
            return msgspec.convert(_completed(content), cls, strict=False)
        except (KeyError, TypeError, msgspec.ValidationError) as error:
            raise VerificationError(f"the report is damaged ({error}); run verify again") from error


def _completed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report with what older ones do not say: they are of one kernel."""
    rows = [
        {"kernel": FUNCTION_BODY if row["provider"] else ""} | row for row in content["comparisons"]
    ]
    agreements = [content["agreement"]] if content["agreement"] else []
    return {"agreements": agreements} | dict(content) | {"comparisons": rows}
