"""Exported files that the tests here serve, each written once."""

import pytest

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from tests.models import randomize


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
