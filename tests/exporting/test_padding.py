"""Whether a model may be given padded sequences, and which axes of its outputs are time."""

import pytest
import torch
from torch import nn

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from tests.models import randomize


class Over(nn.Module):
    """Does something after its BNLSTM, batch first."""

    def __init__(self, what):
        super().__init__()
        self.rnn = BNLSTM(3, 4, batch_first=True, max_length=3)
        self.what = what

    def forward(self, x):
        return self.what(self.rnn(x)[0])


def exported(model, folder, **arguments):
    return export(randomize(model), folder / "m.onnx", **arguments)


@pytest.mark.parametrize("pooling", ["last", "every"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("arguments", [{}, {"form": "unrolled", "length": 4}])
def test_our_models_pad(pooling, batch_first, arguments, tmp_path):
    rnn = BNLSTM(3, 4, batch_first=batch_first, bidirectional=True, max_length=3)
    metadata = exported(BNLSTMModel(rnn, 4, pooling), tmp_path, **arguments)
    axis = int(batch_first)
    assert metadata.pads
    expected = {"input": axis} | ({"output": axis} if pooling == "every" else {})
    assert metadata.time_axes == expected


@pytest.mark.parametrize(
    ("what", "axes"),
    [
        (lambda y: y.mean(1), None),
        (lambda y: y[:, -1], None),
        (lambda y: y.softmax(1), None),
        (lambda y: y.cumsum(1), {"output": 1}),
        (lambda y: y.transpose(0, 1), {"output": 0}),
        (lambda y: y.transpose(1, 2) * 2, {"output": 2}),
        (lambda y: (y * 0 + 1).sum(2), {"output": 1}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_models_of_ones_own(what, axes, dtype, tmp_path):
    x = torch.zeros(2, 4, 3)
    metadata = exported(Over(what), tmp_path, inputs=(x,), dtype=dtype)
    assert metadata.pads == (axes is not None)
    assert metadata.time_axes == {"x": 1} | (axes or {})


def test_a_single_timestep_is_not_known_to_pad(tmp_path):
    metadata = exported(BNLSTM(3, 4, max_length=3), tmp_path, form="unrolled", length=1)
    assert not metadata.pads
