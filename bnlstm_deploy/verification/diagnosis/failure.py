"""What a failed check is followed by: a diagnosis, and a bundle that reproduces it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from bnlstm_deploy.errors import BnlstmError
from bnlstm_deploy.runtime.providers import Provider
from bnlstm_deploy.verification.diagnosis import diagnose
from bnlstm_deploy.verification.diagnosis.kernel_failure import NativeFailure, native_failure
from bnlstm_deploy.verification.diagnosis.narrowing import narrow
from bnlstm_deploy.verification.judging.report import Report
from bnlstm_deploy.verification.measuring.checker import Checker, Suspect, converting
from bnlstm_deploy.verification.reporting.bundle import write_bundle


def explain(
    report: Report,
    model: nn.Module,
    path: Path,
    checker: Checker,
    providers: Mapping[str, Provider],
    bundle: Path | None,
) -> Report:
    """Find out why a check failed.

    Where the native kernel alone fails, that is said, and the file is not searched for mistakes.

    Args:
        report: Of the failed check.
        model: The training model.
        path: The ONNX file.
        checker: With what it measured, and the open graphs.
        providers: The providers, by name.
        bundle: A folder to write that reproduces the failure; None for none.

    Returns:
        The report with the diagnosis. A diagnosis that fails itself is a text in it: what the
        check measured is not lost.

    Raises:
        InputError: The folder exists, or cannot be made.
    """
    failure = native_failure(report, checker.crashes)
    if failure is not None:
        report = replace(report, diagnosis=failure.to_dict())
    suspect = _suspect(checker, failure)
    if suspect is None:
        return report
    provider, run = providers[suspect.backend.provider], converting(checker.graphs[suspect.backend])
    feeds, lengths = suspect.trial.feeds[0], suspect.trial.lengths
    tolerance = suspect.tolerance
    try:
        if failure is not None:
            minimal = narrow(checker.graph, feeds, run, checker.target.run, tolerance, lengths)
        else:
            diagnosis = diagnose(
                model, path, feeds, run=run, tolerance=tolerance, providers=(provider,)
            )
            report, minimal = replace(report, diagnosis=diagnosis.to_dict()), diagnosis.minimal
    except BnlstmError as error:
        return replace(report, diagnosis={"summary": f"the diagnosis failed: {error}"})
    if bundle is not None and minimal is not None:
        kernel = suspect.backend.instruction_set
        write_bundle(bundle, path, minimal, tolerance, report.to_dict(), (provider,), kernel)
    return report


def _suspect(checker: Checker, failure: NativeFailure | None) -> Suspect | None:
    """Choose what to look into, of the graphs that still run: function bodies first."""
    suspects = [s for s in checker.suspects.values() if s.backend in checker.graphs]
    if failure is not None:
        suspects = [s for s in suspects if s.backend.instruction_set in failure.instruction_sets]
    return min(
        suspects, key=lambda s: (s.backend.instruction_set is not None, s.rank), default=None
    )
