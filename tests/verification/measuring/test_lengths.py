"""Models whose own forward takes lengths."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.verification import sample_like
from bnlstm_deploy.verification.measuring.lengths import find_lengths
from tests.models import randomize
from tests.verification.quick import check

X = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Passes its second argument on, in another dtype."""

    def __init__(self):
        super().__init__()
        self.rnn = BNLSTM(2, 6, max_length=4)

    def forward(self, x, valid):
        return self.rnn(x, lengths=valid.long())[0]


class Tagged(nn.Module):
    """Takes an integer a stream that is no length."""

    def __init__(self):
        super().__init__()
        self.rnn = BNLSTM(2, 6, max_length=4)

    def forward(self, x, tag):
        return self.rnn(x)[0] + tag[None, :, None]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_what_is_passed_as_lengths_is_found_and_drawn(dtype):
    model = randomize(Net())
    examples = (X, torch.tensor([5, 2, 0], dtype=dtype))
    assert find_lengths(model, examples) == (1,)
    sample = sample_like(model, examples)
    for time in (1, 3, 20):
        x, lengths = sample(np.random.default_rng(0), 50, time)
        assert x.shape == (time, 50, 2)
        assert lengths.dtype == dtype
        assert (lengths.min(), lengths.max()) == (0, time)


def test_other_integers_are_no_lengths():
    assert find_lengths(randomize(Tagged()), (X, torch.tensor([5, 2, 0]))) == ()


@pytest.mark.parametrize("length", [None, 5])
def test_a_model_that_takes_lengths_is_checked_in_chunks(length, tmp_path):
    model = randomize(Net())
    examples = (X, torch.tensor([5, 2, 0]))
    form = {} if length is None else {"form": "unrolled", "length": length}
    export(model, tmp_path / "m.onnx", examples, **form)
    report = check(model, tmp_path / "m.onnx", sample=sample_like(model, examples))
    assert report.passed, report.failures
    assert any("chunks" in comparison.case for comparison in report.precision)


class Scaled(nn.Module):
    """Takes two floating point inputs, of which one has no time."""

    def __init__(self):
        super().__init__()
        self.rnn = BNLSTM(2, 6, max_length=4)

    def forward(self, x, gain):
        return self.rnn(x)[0] * gain[None, :, None]


@pytest.mark.parametrize("length", [None, 5])
def test_inputs_of_floating_point_need_no_sample(length, tmp_path):
    model = randomize(Scaled())
    form = {} if length is None else {"form": "unrolled", "length": length}
    export(model, tmp_path / "m.onnx", (X, torch.ones(3)), **form)
    report = check(model, tmp_path / "m.onnx")
    assert report.passed, report.failures


def test_its_failures_are_narrowed(tmp_path):
    model = randomize(Net())
    examples = (X, torch.tensor([5, 2, 0]))
    export(model, tmp_path / "m.onnx", examples)
    proto = onnx.load(tmp_path / "m.onnx")
    (bias,) = (a for a in proto.graph.initializer if a.name.endswith("bias_l0"))
    array = numpy_helper.to_array(bias).copy()
    array[2] += np.float32(0.5)
    bias.CopyFrom(numpy_helper.from_array(array, bias.name))
    onnx.save(proto, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx", sample=sample_like(model, examples))
    assert not report.passed
    assert "timestep 2" in report.diagnosis["summary"]
