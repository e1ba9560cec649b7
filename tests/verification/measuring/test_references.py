"""What a graph is compared with: cases that share runs, and those that must not."""

import numpy as np
import pytest
import torch
from torch import nn

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.verification.measuring.cases import Case, default_sample
from bnlstm_deploy.verification.measuring.draw import Draw
from bnlstm_deploy.verification.measuring.references import References
from tests.models import randomize
from tests.verification.quick import check

X = torch.zeros(4, 5, 2)
CASES = (
    Case(4, 1),
    Case(4, 3, state=True),
    Case(4, 5, state=True, lengths="random", steps="random"),
)


class Centered(nn.Module):
    """Looks across the batch."""

    def __init__(self):
        super().__init__()
        self.rnn = BNLSTM(2, 3, max_length=3)

    def forward(self, x):
        output = self.rnn(x)[0]
        return output - output.mean(1, keepdim=True)


@pytest.fixture(params=[BNLSTM, Centered])
def model(request):
    kind = request.param
    one = kind(2, 3, max_length=3, learn_initial_state=True) if kind is BNLSTM else kind()
    return randomize(one)


def test_cases_that_share_runs_give_what_each_gives_alone(model, tmp_path):
    export(model, tmp_path / "m.onnx", (X,))
    graph = Session(tmp_path / "m.onnx", native=False)
    draw = Draw(graph, default_sample(model, graph), np.random.default_rng(0))
    trials = [draw(case) for case in CASES]
    together = References(model, graph, 0)
    found = together.make([(trial, 2) for trial in trials])
    assert together._joins(trials[0]) == isinstance(model, BNLSTM)
    for trial in trials:
        alone = References(model, graph, 0).of(trial)
        for name, value in alone.expected.items():
            assert found[trial].expected[name].shape == value.shape
            np.testing.assert_allclose(found[trial].expected[name], value, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(found[trial].exact[name], alone.exact[name], atol=1e-13)
            assert found[trial].moved_by[name].shape == alone.moved_by[name].shape


def test_a_model_that_looks_across_the_batch_passes(tmp_path):
    model = randomize(Centered())
    export(model, tmp_path / "m.onnx", (X,))
    assert check(model, tmp_path / "m.onnx").passed
