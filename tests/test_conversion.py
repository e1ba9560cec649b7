"""convert(): a checkpoint becomes a file that has passed its check, or no file."""

import pytest
import torch

import bnlstm_deploy
from bnlstm_deploy.errors import InputError, VerificationError
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session
from tests.models import randomize


@pytest.fixture
def model():
    return randomize(BNLSTM(2, 4, max_length=2))


def test_a_checkpoint_becomes_a_verified_file(model, tmp_path):
    bnlstm_deploy.save_checkpoint(model, tmp_path / "checkpoint")
    output = tmp_path / "model.onnx"
    report = bnlstm_deploy.convert(tmp_path / "checkpoint", output, form="unrolled", length=3)
    assert report.passed
    metadata = Session(output).metadata
    assert (metadata.form, metadata.length) == ("unrolled", 3)
    assert metadata.verified
    with pytest.raises(InputError, match="exists"):
        bnlstm_deploy.convert(model, output)


def test_a_file_that_fails_gets_no_name(model, tmp_path, monkeypatch):
    other = randomize(BNLSTM(2, 4, max_length=2), seed=1)
    export = bnlstm_deploy.export
    monkeypatch.setattr(
        "bnlstm_deploy.conversion.export",
        lambda model, path, inputs, **options: export(other, path, inputs, **options),
    )
    with pytest.raises(VerificationError, match="does not compute what the model computes"):
        bnlstm_deploy.convert(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_model_of_ones_own_needs_example_inputs(model, tmp_path):
    class Summed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = model

        def forward(self, x):
            return self.rnn(x)[0].sum(2)

    report = bnlstm_deploy.convert(Summed(), tmp_path / "m.onnx", (torch.randn(3, 2, 2),))
    assert report.passed
