"""A report as one page, with plots and without outside resources."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bnlstm_deploy.pages.document import environment, write
from bnlstm_deploy.verification.judging.comparison import SENSITIVE, Comparison
from bnlstm_deploy.verification.judging.report import ALGEBRA_LIMIT, MORE, Report
from bnlstm_deploy.verification.reporting import plots

SHOWN = 12
"""Comparisons that passed, the closest to their budgets."""
SHOWN_FAILURES = 50
VERSIONS = ("bnlstm-deploy", "onnxruntime", "onnx", "torch", "numpy", "python")
_Row = tuple[Comparison, float, float, bool]


def write_html(report: Report, path: str | Path) -> None:
    """Write a report as one HTML page: verdict, tables and plots, for screens and for paper.

    Args:
        report: What `verify` or `Report.from_dict` gave.
        path: The file to write.

    Raises:
        InputError: The folder does not exist, or cannot be written to.
    """
    write(_page(report), Path(path))


def _page(report: Report) -> str:
    templates = environment("bnlstm_deploy.verification.reporting")
    templates.filters |= {"columns": _columns, "number": _number, "sci": _sci, "times": _times}
    templates.filters["words"] = lambda key: str(key).replace("_", " ")
    templates.tests["rows"] = lambda value: bool(_columns(value))
    rows = _judged(report)
    shown = rows[: min(len(report.failures), SHOWN_FAILURES) + SHOWN]
    versions = [f"{name} {report.environment.get(name, 'unknown')}" for name in VERSIONS]
    scales = [entry for entry in report.scales if entry.input]
    worst = report.worst
    return templates.get_template("report.html").render(
        report=report,
        meta=report.metadata,
        file=report.environment.get("file", "the exported file"),
        summary=_summary(report, rows),
        more=MORE,
        algebra_limit=ALGEBRA_LIMIT,
        sensitive=SENSITIVE,
        versions=versions,
        charts=list(_charts(report)),
        costs=list(_costs(report)),
        rows=shown,
        hidden=len(rows) - len(shown),
        scales=plots.plot_scales(scales) if scales else None,
        stream=plots.plot_stream(worst) if worst and worst.stream and worst.stream[0] else None,
        facts=asdict(report.metadata) | dict(report.environment) | {"seed": report.seed},
    )


def _summary(report: Report, rows: Sequence[_Row]) -> str:
    """Say in a sentence or two what the verdict is about."""
    if report.passed:
        return (
            "The file computes what the checkpoint computes: its largest error is "
            f"{_times(report.ratio)} the training model's own."
        )
    failed = ", ".join(stage.name for stage in report.stages if not stage.passed)
    if not report.failures:
        return f"Failed: {failed}."
    worst, budget, part, _ = rows[0]
    where = f"{worst.case}, {worst.backend}" if worst.provider else worst.case
    return (
        f"Failed: {failed}. The worst error is {_sci(worst.error)}, of {worst.value} at {where}; "
        f"{_sci(budget)} is allowed ({_times(part)})."
    )


def _judged(report: Report) -> list[_Row]:
    """Return each comparison, its budget, its error as a multiple of it, and whether it failed.

    The failures come first, of them and of the others those with the largest multiples.
    """
    rows = []
    for c in report.comparisons:
        budget = report.budget(c)
        part = c.error / budget if budget > 0 else math.inf * c.error if c.error else 0.0
        rows.append((c, budget, part, not c.unexplained <= budget))
    # what is not a number is worse than any
    return sorted(rows, key=lambda row: (not row[3], -row[2] if row[2] <= math.inf else -math.inf))


def _charts(report: Report) -> Iterator[tuple[plots.Panel, plots.Plot, plots.Plot | None]]:
    """Yield for each output with curves its longest T, the plot of it, and that of the other T."""
    curves = [curve for curve in report.curves if curve.error]
    for value in dict.fromkeys(curve.value for curve in curves):
        panels = []
        for time in sorted({curve.time for curve in curves if curve.value == value}):
            alike = [c for c in curves if (c.value, c.time) == (value, time)]
            judged = [c for c in report.precision if (c.value, c.time) == (value, time)]
            budget = max(map(report.budget, judged), default=math.inf)
            first = {curve.backend: report.first_over(curve) for curve in alike}
            over = {backend: step for backend, step in first.items() if step is not None}
            panels.append(plots.Panel(alike, budget, over, report.metadata.dtype))
        *others, longest = panels
        yield longest, plots.plot_errors(longest), plots.plot_lengths(others) if others else None


def _costs(report: Report) -> Iterator[tuple[str, plots.Plot]]:
    """Yield each output with costs over timesteps, and the plot of its longest T of each inputs."""
    found = [cost for cost in report.costs if len(cost.largest) > 1]
    for value in dict.fromkeys(cost.value for cost in found):
        longest = {
            cost.inputs: cost
            for cost in sorted(found, key=lambda cost: cost.time)
            if cost.value == value
        }
        yield value, plots.plot_costs(list(longest.values()), report.cost_limit)


def _columns(rows: object) -> list[str]:
    """Return the keys of the rows of a table; none if that is not what it is."""
    if not isinstance(rows, list | tuple) or not all(isinstance(row, Mapping) for row in rows):
        return []
    return list(dict.fromkeys(key for row in rows for key in row))


def _number(value: object) -> str:
    """Return any single value as text; the words for numbers that JSON lacks are its own."""
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if value == 0 or 1e-3 <= abs(value) < 1e4 else _sci(value)


def _sci(value: float) -> str:
    """Return an error: 2.1e-7."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if value and exponent else f"{value:g}"


def _times(value: float) -> str:
    """Return a multiple: 0.98x."""
    text = f"{value:.2f}" if 0.01 <= value < 1e4 else _sci(value)
    return f"{text}x" if math.isfinite(value) else text
