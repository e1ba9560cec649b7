"""The summary of a passed check, written into the file that was checked: `bnlstm.verified.*`."""

import hashlib
from dataclasses import replace
from pathlib import Path

import onnx

from bnlstm_deploy.atomic import replacing
from bnlstm_deploy.errors import VerificationError
from bnlstm_deploy.metadata import VERIFIED
from bnlstm_deploy.seal import serialize
from bnlstm_deploy.verification.judging.report import Report


def record(report: Report, path: str | Path) -> Report:
    """Write the summary of a passed report into the metadata of its file.

    Only metadata properties change; what an earlier check wrote is replaced.

    Returns:
        The report with the file's hash as it is now.

    Raises:
        VerificationError: The report is of a check that failed.
    """
    if not report.passed:
        raise VerificationError("the check failed; only one that passed is written into the file")
    path = Path(path).resolve()  # a link stays one
    proto = onnx.load(path)
    kept = [entry for entry in proto.metadata_props if not entry.key.startswith(VERIFIED)]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    environment = report.environment
    facts = {
        "date": environment["date"],
        "ratio": f"{report.ratio:.3g}",
        "truth_error": f"{report.truth_error:.3g}",
        "algebra_error": f"{report.algebra_error:.3g}",
        "providers": environment["providers"],
        "kernels": environment["kernels"],
        "versions": ", ".join(
            f"{name} {environment[name]}" for name in ("bnlstm-deploy", "onnxruntime", "torch")
        ),
    }
    for name, value in facts.items():
        proto.metadata_props.add(key=VERIFIED + name, value=value)
    content = serialize(proto)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return replace(report, environment={**environment, "file_sha256": digest})
