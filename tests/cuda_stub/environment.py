"""Tells whether the tests here can run."""

import os

import pytest


def require_stubs() -> None:
    """Skip the module unless the process was started with the stubs, as libraries have to be."""
    if "BNLSTM_CUDA_STUB" not in os.environ:
        pytest.skip("needs the stub CUDA libraries: make test-cuda-stub", allow_module_level=True)
