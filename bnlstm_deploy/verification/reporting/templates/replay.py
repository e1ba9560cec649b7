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
actual = dict(zip(expected, session.run(list(expected), inputs), strict=True))

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
