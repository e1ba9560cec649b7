"""Exported files that the tests here serve, each written once."""

from importlib.util import find_spec

import pytest

from bnlstm_deploy.export import export
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from tests.models import randomize

SERVER = [
    "test_app.py",
    "test_faults.py",
    "test_guard.py",
    "test_page.py",
    "test_rpc.py",
    "test_server.py",
    "test_settings.py",
]
"""Tests of the server, whose libraries are in no environment of the Makefile yet."""

INSTALLED = all(find_spec(module) for module in ("kserve", "playwright", "tritonclient"))

collect_ignore = [] if INSTALLED else SERVER


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    layers = {"num_layers": 2, "max_length": 6, "batch_first": True}
    models = {
        "dynamic": (BNLSTM(3, 8, **layers, learn_initial_state=True), {}),
        "classifier": (BNLSTMModel(BNLSTM(3, 8, max_length=6), out_features=4), {}),
        "bidirectional": (BNLSTM(3, 8, max_length=6, bidirectional=True), {}),
        "unrolled": (BNLSTM(3, 8, max_length=6), {"form": "unrolled", "length": 7}),
    }
    for name, (model, arguments) in models.items():
        export(randomize(model), folder / f"{name}.onnx", **arguments)
    return folder
