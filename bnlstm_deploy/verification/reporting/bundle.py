"""A folder that reproduces a failure with numpy and onnxruntime alone."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnlstm_deploy.atomic import check_free_folder, replacing_folder
from bnlstm_deploy.native import library_path
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.runtime.providers import Provider
from bnlstm_deploy.verification.diagnosis.narrowing import Minimal
from bnlstm_deploy.verification.versions import versions

MODEL = "model.onnx"


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
    check_free_folder(folder)
    graph = Session(path, providers=providers, native=False)
    library = None if instruction_set is None else library_path()
    about = {
        "providers": list(graph.providers),
        "seed": report.get("seed"),
        "library": library and library.name,
        "instruction_set": instruction_set,
    }
    dtypes = {value.name: value.dtype for value in (*graph.inputs, *graph.state_inputs)}
    arrays = {
        "inputs.npz": {n: a.astype(dtypes[n] or a.dtype) for n, a in case.feeds.items()},
        "expected.npz": case.expected,
        "actual.npz": case.actual,
    }
    texts = {
        "tolerance.json": json.dumps(dict(tolerance), indent=1),
        "versions.json": json.dumps(versions() | about, indent=1),
        "report.json": json.dumps(dict(report), indent=1),
        "replay.py": (Path(__file__).parent / "templates" / "replay.py").read_text("utf-8"),
    }
    with replacing_folder(folder) as new:
        shutil.copyfile(path, new / MODEL)
        if library is not None:
            shutil.copyfile(library, new / library.name)
        for name, held in arrays.items():
            np.savez(new / name, **held)  # type: ignore[arg-type]
        for name, text in texts.items():
            (new / name).write_text(text + "\n" * (not text.endswith("\n")), encoding="utf-8")
