"""sample_like(): inputs after an example."""

import numpy as np
import pytest
import torch
from torch import nn

from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.verification import sample_like


class Reader(nn.Module):
    """Takes numbers, tokens, one number a stream, and lengths."""

    def __init__(self, batch_first):
        super().__init__()
        self.rnn = BNLSTM(3, 4, max_length=5, batch_first=batch_first)

    def forward(self, x, tokens, scale, lengths):
        return self.rnn(x * scale.mean() + tokens[..., None], lengths=lengths)[0]


@pytest.mark.parametrize("batch_first", [True, False])
def test_inputs_are_like_the_example(batch_first):
    lead = (4, 5) if batch_first else (5, 4)
    x = torch.randn(*lead, 3) * 2 + 10
    tokens = torch.arange(20).reshape(lead) % 3 * 7
    examples = (x, tokens, torch.rand(4), torch.tensor([5, 2, 3, 1], dtype=torch.int32))
    sample = sample_like(Reader(batch_first), examples)
    drawn = sample(np.random.default_rng(0), 30, 40)
    sizes = (30, 40) if batch_first else (40, 30)
    assert [d.shape for d in drawn] == [(*sizes, 3), sizes, (30,), (30,)]
    assert [d.dtype for d in drawn] == [torch.float32, torch.int64, torch.float32, torch.int32]
    assert float(drawn[0].mean()) == pytest.approx(float(x.mean()), abs=0.2)
    assert float(drawn[0].std()) == pytest.approx(float(x.numpy().std()), abs=0.2)
    assert set(drawn[1].unique().tolist()) == {0, 7, 14}
    # lengths are of the T that is drawn, not of the example's
    assert 0 <= drawn[3].min() < 5
    assert 30 < drawn[3].max() <= 40
    everything = torch.cat([sample(np.random.default_rng(s), 99, 2)[3] for s in range(3)])
    assert set(everything.tolist()) == {0, 1, 2}
