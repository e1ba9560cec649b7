"""Settings that all tests share."""

import copy
import gc
import os
import sys
from collections.abc import Iterator
from functools import cache

import pytest
import torch
import torch._export.utils as torch_export
from hypothesis import HealthCheck, settings
from torch.onnx._internal.exporter._registration import ONNXRegistry

# Models here are tiny: more threads only wait for each other.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# Graphs of torch are many objects, and hardly any of them are garbage: a tenth of the time.
gc.freeze()
gc.set_threshold(50_000, 20, 50)

# At each export torch looks up all operators that it has, and parses the source of all that ONNX
# has for them: half of the time.
torch_export._materialize_cpp_cia_ops = cache(torch_export._materialize_cpp_cia_ops)
_registry = cache(ONNXRegistry.from_torchlib)


def _registry_of(opset_version: int) -> ONNXRegistry:
    """Return a registry for an export to add to."""
    registry = copy.copy(_registry(opset_version))
    registry.functions = {name: [*entries] for name, entries in registry.functions.items()}
    return registry


ONNXRegistry.from_torchlib = staticmethod(_registry_of)  # type: ignore[assignment]

settings.register_profile(
    "default",
    deadline=None,  # machines are shared: a slow example is no failure
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def subnormal() -> Iterator[None]:
    """Fail what leaves the thread flushing subnormal numbers: later tests are about them."""
    yield
    assert sys.float_info.min / 2 > 0
