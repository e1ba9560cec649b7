"""Settings that all tests share."""

import os

import torch
from hypothesis import HealthCheck, settings

# Models here are tiny: more threads only wait for each other.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

settings.register_profile(
    "default",
    deadline=None,  # machines are shared: a slow example is no failure
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("default")
