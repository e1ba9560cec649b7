"""These tests need Triton, which is no part of the environment: make test-kernels."""

import importlib.util
import os

if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
