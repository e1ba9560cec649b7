"""For test suites of one's own."""

from pathlib import Path
from typing import Any

from torch import nn

from bnlstm_deploy.verification.check import verify
from bnlstm_deploy.verification.judging.report import Report

SHOWN = 5


def assert_equivalent(model: nn.Module, path: str | Path, **arguments: Any) -> Report:  # noqa: ANN401
    """Assert that an exported file computes what its training model computes.

        def test_the_export_is_what_we_trained(tmp_path):
            model = load("checkpoint")
            export(model, tmp_path / "model.onnx")
            assert_equivalent(model, tmp_path / "model.onnx")

    Args:
        model: The training model.
        path: The exported file.
        arguments: Those of `verify`.

    Returns:
        The report, of a check that passed.

    Raises:
        AssertionError: The check failed; the message says which stages, where, and why if known.
    """
    __tracebackhide__ = True  # pytest then points at the caller
    report = verify(model, path, **arguments)
    if not report.passed:
        raise AssertionError(explain(report))
    return report


def explain(report: Report) -> str:
    """Return what failed, in a few lines."""
    lines = [f"{stage.name}: {stage.detail}" for stage in report.stages if not stage.passed]
    lines += [
        f"  {c.value} at {c.case}: error {c.error:.2e}, allowed {report.budget(c):.2e}"
        for c in report.failures[:SHOWN]
    ]
    if len(report.failures) > SHOWN:
        lines.append(f"  and {len(report.failures) - SHOWN} more")
    if report.diagnosis is not None:
        lines += ["diagnosis:", *(f"  {line}" for line in report.diagnosis["summary"].split("\n"))]
    return "the graph does not compute what the model computes\n" + "\n".join(lines)
