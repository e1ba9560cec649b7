"""A report as one page, with plots and without outside resources."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bnlstm_deploy.atomic import replacing
from bnlstm_deploy.extras import require
from bnlstm_deploy.verify.backend import Backend
from bnlstm_deploy.verify.metrics import SENSITIVE, Comparison, largest
from bnlstm_deploy.verify.report import ALGEBRA_LIMIT, Report

require("jinja2", extra="report")

import jinja2  # noqa: E402

from bnlstm_deploy.verify import plots  # noqa: E402

SHOWN = 12
"""Comparisons that passed, the closest to their budgets."""
SHOWN_FAILURES = 50
VERSIONS = ("bnlstm-deploy", "onnxruntime", "onnx", "torch", "numpy", "python")
_Row = tuple[Comparison, float, float, bool]

STYLE = """
:root { color-scheme: light dark; --page: #f5f6f8; --card: #fff; --ink: #1b2330; --muted: #586374;
  --line: #dce1e8; --shade: #e2e7ee; --good: #10703c; --good-tint: #e2f4e9; --bad: #b8202a;
  --bad-tint: #fdeaea; --note: #704600; --note-tint: #fff3d6; --first: #1a5fc4; --second: #b4540a;
  --third: #0d7a73; --fourth: #8a3fb0; --fifth: #8a6d00; --sixth: #c22f6b }
@media screen and (prefers-color-scheme: dark) { :root { --page: #11151b; --card: #191f28;
  --ink: #e6eaf0; --muted: #9aa6b7; --line: #303948; --shade: #2b3442; --good: #5ed28f;
  --good-tint: #15301f; --bad: #ff8080; --bad-tint: #3a1a1e; --note: #f2c46b; --note-tint: #33280f;
  --first: #6ea8ff; --second: #f0a35e; --third: #4fd0c5; --fourth: #cf9af0;
  --fifth: #d9c04a; --sixth: #ff8fbe } }
* { box-sizing: border-box }
body { overflow-wrap: anywhere; margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 48px }
header, section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 24px; margin-bottom: 18px; overflow-x: auto }
.passed { --tone: var(--good); --tint: var(--good-tint) }
.failed { --tone: var(--bad); --tint: var(--bad-tint) } header { border-top: 6px solid var(--tone) }
b.passed, b.failed { background: var(--tint); color: var(--tone); border-radius: 6px;
  letter-spacing: .03em; padding: .15em .65em; white-space: nowrap; font-size: .87em }
h1 { font-size: 24px; line-height: 1.4; margin: 0 0 8px } h1 b { margin-right: 10px }
h2 { font-size: 18px; margin: 0 0 4px } h3 { font-size: 15px; margin: 20px 0 4px }
p { margin: 0 0 8px; max-width: 92ch } .lead { font-size: 17px }
.alarm, .note { border-radius: 6px; margin: 10px 0; max-width: none; padding: 8px 12px;
  background: var(--note-tint); color: var(--note) }
.alarm { background: var(--bad-tint) } .alarm, .over, .over td { color: var(--bad) }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 16px 0 }
.tiles div { border: 1px solid var(--line); border-radius: 8px; flex: 1 170px; padding: 10px 14px }
.tiles * { display: block; line-height: 1.4 } .tiles b { font-size: 24px }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 20px; margin: 6px 0 0 }
.hint, small { font-size: 13.5px } .hint, small, dt { color: var(--muted) } dd { margin: 0 }
code { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace }
table { overflow-wrap: normal; border-collapse: collapse; width: 100%; font-size: 14px }
th, td { border-bottom: 1px solid var(--line); padding: 6px 16px 6px 0; text-align: left }
th { color: var(--muted); font-size: 12.5px; line-height: 1.3; vertical-align: bottom }
td { vertical-align: top } tr:last-child > td { border: 0 } tr > :last-child { padding-right: 0 }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
figure { margin: 8px 0 4px } svg { display: block; width: 100%; height: auto }
svg * { stroke-linejoin: round } svg text { font-family: inherit !important }
@media print { body { background: none; font-size: 12px } main { max-width: none; padding: 0 }
  header, section { overflow: visible; padding: 12px 16px } table { font-size: 10.5px }
  figure, tr { break-inside: avoid } h2, h3 { break-after: avoid } * { print-color-adjust: exact } }
"""

TEMPLATE = """\
{%- macro verdict(ok) %}<b class="{{ 'passed' if ok else 'failed' }}">
{{- 'PASSED' if ok else 'FAILED' }}</b>{% endmacro %}
{%- macro head(left, right=()) %}<tr>{% for name in left %}<th>{{ name }}</th>{% endfor %}
{%- for name in right %}<th class="n">{{ name }}</th>{% endfor %}</tr>{% endmacro %}
{%- macro numbers() %}{% for n in varargs %}<td class="n">{{ n }}</td>{% endfor %}{% endmacro %}
{%- macro drawn(plot, label) %}<figure role="img" aria-label="{{ label }}">{{ plot.svg | safe }}
{%- if plot.steps > 1 %}<figcaption class="hint">Each point stands for {{ plot.steps }} timesteps:
it is the largest of them.</figcaption>{% endif %}</figure>{% endmacro %}
{%- macro tree(value) %}
{%- if value is mapping %}<dl>{% for key, inner in value.items() %}<dt>{{ key | words }}</dt>
<dd>{{ tree(inner) }}</dd>{% endfor %}</dl>
{%- elif value is rows %}{% set names = value | columns %}<table>{{ head(names | map('words')) }}
{% for row in value %}<tr>{% for name in names %}<td>{% if name in row %}{{ tree(row[name]) }}
{%- endif %}</td>{% endfor %}</tr>{% endfor %}</table>
{%- elif value is sequence and value is not string %}
{%- for inner in value %}{{ tree(inner) }}{{ ', ' if not loop.last }}{% else %}none{% endfor %}
{%- else %}{{ value | number }}{% endif %}{% endmacro -%}
{%- macro sentences(parts) %}<ul>{% for part in parts %}<li>{{ part.text }}</li>{% endfor %}</ul>
{%- endmacro -%}
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ 'PASSED' if report.passed else 'FAILED' }}: {{ file }}</title>
<style>{{ style | safe }}</style></head><body><main>
<header class="{{ 'passed' if report.passed else 'failed' }}">
<h1>{{ verdict(report.passed) }} {{ file }}</h1><p class="lead">{{ summary }}</p>
<div class="tiles"><div><b>{{ report.ratio | times }}</b><small>the training model's own
{{ meta.dtype }} error; limit {{ report.ratio_limit | number }}x</small></div>
<div><b>{{ report.truth_error | sci }}</b><small>largest absolute error against the float64
training model</small></div>
<div><b>{{ report.algebra_error | sci }}</b><small>relative error of the fold in float64; limit
{{ algebra_limit | sci }}</small></div>
<div><b{{ ' class="over"' | safe if report.failures }}>{{ report.failures | length }}
of {{ report.comparisons | length }}</b><small>comparisons over budget</small></div>
{%- if report.agreement %}<div><b>{{ report.agreement.agreeing }}</b><small>of
{{ report.agreement.answers }} answers on your data agree</small></div>{% endif %}</div>
<dl><dt>checkpoint</dt><dd><code>{{ report.checkpoint_sha256 }}</code></dd>
<dt>date</dt><dd>{{ report.environment['date'] | default('unknown') }}</dd>
<dt>versions</dt><dd>{{ versions | join(', ') }}</dd></dl>
{% for crash in report.crashes %}<p class="alarm">Crashed: {{ crash }}</p>{% endfor %}
{%- if meta.merge_tolerance %}<p class="note">Merging rows of statistics (tolerance
{{ meta.merge_tolerance | number }}) changes outputs by up to {{ report.merge_error | number }},
measured in float64. The graph is judged against the merged model.</p>{% endif %}
{%- if chaotic %}<p class="note">At T = {{ chaotic | join(', ') }} the training model's own output
in {{ meta.dtype }} is noise, off by more than 1 %: it amplifies rounding exponentially. Float64 is
not judged there; the shorter cases decide.</p>{% endif %}
{%- if report.no_native %}<p class="note">The native kernel was not checked, the file's function
body alone: {{ report.no_native }}.</p>{% endif %}</header>
<section><h2>Stages</h2><table>{{ head(('stage', 'verdict', 'detail')) }}
{% for stage in report.stages %}<tr><td>{{ stage.name }}</td><td>{{ verdict(stage.passed) }}</td>
<td>{{ stage.detail }}</td></tr>{% endfor %}</table></section>
{% set why = report.diagnosis %}{% if why %}<section><h2>Why it failed</h2>
{% if why.hypotheses is not defined %}<p>{{ why.summary }}</p>{% else %}
{% if why.origin %}<h3>Where the error comes from</h3>{{ sentences([why.origin]) }}{% endif %}
{% if why.other_origins %}<h3>And where more of it does</h3>{{ sentences(why.other_origins) }}
{%- endif %}<h3>What explains it, of {{ why.hypotheses_tested }} known mistakes</h3>
{% if why.hypotheses %}{{ sentences(why.hypotheses) }}{% else %}<p>None.</p>{% endif %}
{% if why.arrays %}<h3>Arrays that are not those of the fold</h3>{{ sentences(why.arrays) }}
{%- endif %}{% endif %}</section>{% endif %}
<section><h2>Outputs</h2>
<p class="hint">The largest of all precision cases, against the float64 training model.</p>
<table>{{ head(('output', 'provider', 'kernel'), ('error', "training model's own", 'ratio',
'99th percentile', 'relative L2')) }}
{% for value, backend, error, own, p99, relative in outputs %}<tr><td><code>{{ value }}</code></td>
<td>{{ backend.provider }}</td><td>{{ backend.kernel }}</td>
{{- numbers(error | sci, own | sci, (error / own) | times if own else '-', p99 | sci,
relative | sci) }}</tr>{% endfor %}</table>
{%- if report.agreements %}<h3>Your data</h3>{% for agreement in report.agreements %}<p>
{{ agreement.backend }}: {{ agreement }}.</p>{% endfor %}{% endif %}</section>
{% if charts %}<section><h2>Error over timesteps</h2>
<p class="hint">At each timestep the largest error of all cases of that T. Shaded: the training
model's own {{ meta.dtype }} error, the yardstick. Sensitivity: how far inexact sigmoid and tanh
move the training model; a value passes beyond the budget if at most {{ sensitive | number }} times
its own sensitivity. An error of 0 is at the bottom.</p>
{% for panel, main, others in charts %}{% set name = panel.curves[0].value %}
<h3>{{ name }}, T = {{ panel.time }}</h3>
{% for backend, step in panel.over.items() %}<p class="{{ 'note' if report.passed else 'alarm' }}">
First over budget at timestep {{ step }}: {{ backend if backend.provider else 'the file' }}</p>
{%- endfor %}
{{- drawn(main, 'Errors of ' ~ name ~ ' over timesteps') }}
{%- if others %}<h3>{{ name }}, other numbers of timesteps</h3>
{{- drawn(others, 'Errors of ' ~ name ~ ' for other T') }}{% endif %}
{% endfor %}</section>{% endif %}
<section><h2>{{ 'Failures, and the' if report.failures else 'The' }} comparisons closest to their
budgets</h2><table>{{ head(('stage', 'case', 'output', 'provider', 'kernel'), ('error', 'budget',
'error / budget', 'own error', 'fold', 'sensitivity', 'largest value')) }}
{% for c, budget, part, over in rows %}<tr{{ ' class="over"' | safe if over }}><td>{{ c.stage }}
</td><td>{{ c.case }}</td><td><code>{{ c.value }}</code></td><td>{{ c.provider }}</td>
<td>{{ c.kernel }}</td>
{{- numbers(c.error | sci, budget | sci, part | times, c.own_error | sci, c.fold_error | sci,
c.activation_error | sci, c.magnitude | sci) }}</tr>
{% endfor %}</table><p class="hint">{{ hidden }} more comparisons are not shown.</p></section>
{% if scales %}<section><h2>Folded scales</h2><p class="hint">The largest of each step: the gain
there. Large scales are variances near 0, and amplify rounding.</p>
{{ drawn(scales, 'Folded scales over steps') }}</section>{% endif %}
{% if report.worst %}<section><h2>Worst input</h2><p>In {{ report.worst.tried }} minibatches the
search found an error of <b>{{ report.worst.error | sci }}</b> in
<code>{{ report.worst.value }}</code> on {{ report.worst.backend }}, where the training model's own
is {{ report.worst.own_error | sci }}. This is the stream of
<code>{{ report.worst.name }}</code>:</p>
{% if stream %}{{ drawn(stream, 'The worst stream over time') }}{% endif %}</section>{% endif %}
<section><h2>Structure of the file</h2><table>{{ head(('finding', 'verdict', 'detail')) }}
{% for finding in report.structure %}<tr><td>{{ finding.name }}</td>
<td>{{ verdict(finding.ok) }}</td><td>{{ finding.detail }}</td></tr>
{% endfor %}</table><h3>Metadata and environment</h3>{{ tree(facts) }}</section>
</main></body></html>
"""


def write_html(report: Report, path: str | Path) -> None:
    """Write a report as one HTML page: verdict, tables and plots, for screens and for paper.

    Args:
        report: What `verify` or `Report.from_dict` gave.
        path: The file to write.

    Raises:
        InputError: The folder does not exist, or cannot be written to.
    """
    page = _page(report)
    with replacing(Path(path)) as temporary:
        # the name of a file may hold what is not Unicode
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _page(report: Report) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"columns": _columns, "number": _number, "sci": _sci, "times": _times}
    environment.filters["words"] = lambda key: str(key).replace("_", " ")
    environment.tests["rows"] = lambda value: bool(_columns(value))
    rows = _judged(report)
    shown = rows[: min(len(report.failures), SHOWN_FAILURES) + SHOWN]
    versions = [f"{name} {report.environment.get(name, 'unknown')}" for name in VERSIONS]
    scales = [entry for entry in report.scales if entry.input]
    worst = report.worst
    return environment.from_string(TEMPLATE).render(
        report=report,
        meta=report.metadata,
        file=report.environment.get("file", "the exported file"),
        style=STYLE,
        summary=_summary(report, rows),
        algebra_limit=ALGEBRA_LIMIT,
        sensitive=SENSITIVE,
        versions=versions,
        chaotic=sorted({c.time for c in report.precision if report.chaotic(c)}),
        outputs=list(_outputs(report)),
        charts=list(_charts(report)),
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


def _outputs(report: Report) -> Iterator[tuple[str, Backend, float, float, float, float]]:
    """Yield each output and backend, and error, own error, 99th percentile and relative L2."""
    for value, backend in dict.fromkeys((c.value, c.backend) for c in report.precision):
        found = [c for c in report.precision if (c.value, c.backend) == (value, backend)]
        error, own = largest(c.error for c in found), largest(c.own_error for c in found)
        p99, relative = largest(c.p99 for c in found), largest(c.relative_l2 for c in found)
        yield value, backend, error, own, p99, relative


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
