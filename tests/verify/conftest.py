"""What several tests of the check share."""

import onnx
import pytest

from bnlstm_deploy.export import export
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from tests.models import randomize


@pytest.fixture(scope="session")
def model():
    rnn = BNLSTM(3, 8, 2, batch_first=True, max_length=6)
    return randomize(BNLSTMModel(rnn, 4, pooling="every"))


@pytest.fixture(scope="session")
def proto(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("verify") / "m.onnx"
    export(model, path)
    return onnx.load(path)
