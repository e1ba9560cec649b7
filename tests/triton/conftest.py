"""The real tritonserver of nvidia-pytriton; skipped where that is not installed."""

import importlib.util

import pytest

if importlib.util.find_spec("pytriton") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def python_server(tmp_path_factory):
    """A server of the models for the python backend."""
    from tests.triton.server import MODELS, Server

    with Server(MODELS / "python", tmp_path_factory.mktemp("python")) as server:
        yield server
