"""A folder that reproduces a failure with numpy and onnxruntime alone."""

import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bnlstm_deploy.atomic import check_free, replacing_folder
from bnlstm_deploy.native import library_path
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.runtime.providers import Provider
from bnlstm_deploy.verification.diagnosis.narrowing import Minimal
from bnlstm_deploy.version import __version__

MODEL = "model.onnx"

PACKAGES = ("numpy", "onnx", "torch")

REPLAY = '''\
"""Reruns model.onnx on inputs.npz and compares with expected.npz, the float64 truth.

Needs numpy and onnxruntime. Exit status: 1 if the failure reproduces, 0 if it does not.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

here = Path(__file__).parent
versions = json.loads((here / "versions.json").read_text())
allowed = json.loads((here / "tolerance.json").read_text())
inputs, expected, recorded = (
    dict(np.load(here / name)) for name in ("inputs.npz", "expected.npz", "actual.npz")
)

options = ort.SessionOptions()
options.log_severity_level = 3
if versions["library"]:  # of the native kernel, and the instruction set that it failed for
    os.environ["BNLSTM_DEPLOY_NATIVE"] = versions["instruction_set"]
    options.register_custom_ops_library(str(here / versions["library"]))
model, providers = str(here / "model.onnx"), versions["providers"]
session = ort.InferenceSession(model, options, providers=providers)
actual = dict(zip(expected, session.run(list(expected), inputs)))

failed = False
for name, truth in expected.items():
    error = np.abs(actual[name].astype(np.float64) - truth.astype(np.float64)).max(initial=0)
    before = np.abs(recorded[name].astype(np.float64) - truth.astype(np.float64)).max(initial=0)
    over = name in allowed and not error <= allowed[name]
    failed = failed or over
    limit = f"{allowed[name]:.3g}" if name in allowed else "anything"
    verdict = "FAILS" if over else "passes"
    print(f"{name}: error {error:.3g} (recorded {before:.3g}), allowed {limit}: {verdict}")
print("reproduced" if failed else "not reproduced")
sys.exit(int(failed))
'''


def write_bundle(
    folder: str | Path,
    path: str | Path,
    case: Minimal,
    tolerance: Mapping[str, float],
    report: Mapping[str, Any],
    providers: Sequence[Provider] = ("cpu",),
    instruction_set: str | None = None,
) -> None:
    """Write a folder that reproduces a failure.

        model.onnx      the file
        inputs.npz      the smallest part of the failing inputs that still fails
        expected.npz    the float64 truth
        actual.npz      what the file gives
        tolerance.json  the largest error that is allowed of each output
        versions.json   Python, packages, machine, providers, kernel, seed
        report.json     the report
        replay.py       reruns the file; needs only numpy and onnxruntime
        libbnlstm.so    the native kernel's library, if it is that which fails

    The folder appears whole or not at all.

    Args:
        folder: The folder to make.
        path: The ONNX file.
        case: The failing inputs, what they should give and what they give: `Diagnosis.minimal`.
        tolerance: The largest error that is allowed of each output, by name.
        report: What is known of the failure, for JSON: `Report.to_dict()`.
        providers: Execution providers, recorded for the script.
        instruction_set: That of the native kernel that failed; None for the function body.

    Raises:
        InputError: The folder exists, or cannot be made.
        RuntimeSessionError: The file cannot be loaded.
    """
    folder, path = Path(folder), Path(path)
    check_free(folder)
    graph = Session(path, providers=providers, native=False)
    library = None if instruction_set is None else library_path()
    native = {"library": library and library.name, "instruction_set": instruction_set}
    dtypes = {value.name: value.dtype for value in (*graph.inputs, *graph.state_inputs)}
    arrays = {
        "inputs.npz": {n: a.astype(dtypes[n] or a.dtype) for n, a in case.feeds.items()},
        "expected.npz": case.expected,
        "actual.npz": case.actual,
    }
    texts = {
        "tolerance.json": json.dumps(dict(tolerance), indent=1),
        "versions.json": json.dumps(_versions(graph, report) | native, indent=1),
        "report.json": json.dumps(dict(report), indent=1),
        "replay.py": REPLAY,
    }
    with replacing_folder(folder) as new:
        shutil.copyfile(path, new / MODEL)
        if library is not None:
            shutil.copyfile(library, new / library.name)
        for name, held in arrays.items():
            np.savez(new / name, **held)  # type: ignore[arg-type]
        for name, text in texts.items():
            (new / name).write_text(text + "\n" * (not text.endswith("\n")), encoding="utf-8")


def _versions(graph: Session, report: Mapping[str, Any]) -> dict[str, Any]:
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "python": platform.python_version(),
        **packages,
        "onnxruntime": ort.__version__,  # onnxruntime-gpu is that module, too
        "bnlstm-deploy": __version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "providers": list(graph.providers),
        "seed": report.get("seed"),
    }
