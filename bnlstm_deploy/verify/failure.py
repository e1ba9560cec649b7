"""What a failed check is followed by: a diagnosis, and a bundle that reproduces it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from bnlstm_deploy.errors import BnlstmError
from bnlstm_deploy.runtime.providers import Provider
from bnlstm_deploy.verify.bundle import write_bundle
from bnlstm_deploy.verify.checker import Suspect, converting
from bnlstm_deploy.verify.diagnosis import Diagnosis, diagnose
from bnlstm_deploy.verify.process import Graph
from bnlstm_deploy.verify.report import Report


def look_into(
    report: Report,
    model: nn.Module,
    path: Path,
    suspect: Suspect,
    graphs: Mapping[str, Graph],
    providers: Mapping[str, Provider],
    bundle: Path | None,
) -> Report:
    """Find out why a check failed.

    Args:
        report: Of the failed check.
        model: The training model.
        path: The ONNX file.
        suspect: The inputs to look into.
        graphs: The open graphs, by the provider's name.
        providers: The providers, by name.
        bundle: A folder to write that reproduces the failure; None for none.

    Returns:
        The report with the diagnosis. A diagnosis that fails itself is a text in it: what the
        check measured is not lost.

    Raises:
        InputError: The folder exists, or cannot be made.
    """
    provider = (providers[suspect.provider],)
    try:
        diagnosis: Diagnosis = diagnose(
            model,
            path,
            suspect.trial.feeds[0],
            run=converting(graphs[suspect.provider]),
            tolerance=suspect.tolerance,
            providers=provider,
        )
    except BnlstmError as error:
        return replace(report, diagnosis={"summary": f"the diagnosis failed: {error}"})
    report = replace(report, diagnosis=diagnosis.to_dict())
    if bundle is not None and diagnosis.minimal is not None:
        case, tolerance = diagnosis.minimal, suspect.tolerance
        write_bundle(bundle, path, case, tolerance, report.to_dict(), provider)
    return report
