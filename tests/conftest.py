"""Settings that all tests share."""

import os
from functools import cache

import torch
from hypothesis import HealthCheck, settings
from torch.onnx._internal._lazy_import import onnxscript_apis  # type: ignore[attr-defined]

# Models here are tiny: more threads only wait for each other.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# At each export torch parses the source of all operators that it knows: a third of the time.
onnxscript_apis.get_torchlib_ops = cache(onnxscript_apis.get_torchlib_ops)

settings.register_profile(
    "default",
    deadline=None,  # machines are shared: a slow example is no failure
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("default")
