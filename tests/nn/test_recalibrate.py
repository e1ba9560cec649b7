"""Recalibration: the minibatch statistics of frozen weights, averaged over a data set."""

import pytest
import torch
from torch import nn

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel, recalibrate
from tests.models import randomize


def test_first_input_statistics_are_those_of_the_data():
    model = BNLSTM(2, 3, max_length=4, dtype=torch.float64)
    batches = [torch.randn(4, 6, 2, dtype=torch.float64) for _ in range(3)]
    recalibrate(model, batches)
    for t in range(4):
        products = [batch[t] @ model.weight_ih_l0.detach().T for batch in batches]
        mean = torch.cat(products).mean(0)
        var = torch.stack([product.var(0) for product in products]).mean(0)
        torch.testing.assert_close(model.input_norm_l0.running_mean[t], mean)
        torch.testing.assert_close(model.input_norm_l0.running_var[t], var)
    assert model.hidden_norm_l0.running_var[0].abs().max() == 0  # h is 0 at the first step
    assert model.cell_norm_l0.num_batches_tracked.tolist() == [3] * 4


def test_it_is_a_momentum_free_average_when_batches_are_alike():
    torch.manual_seed(0)
    batches = [torch.randn(4, 6, 2, dtype=torch.float64) for _ in range(5)]
    model = randomize(BNLSTM(2, 3, 2, max_length=4, dtype=torch.float64))
    averaging = BNLSTM(2, 3, 2, max_length=4, momentum=None, dtype=torch.float64)
    averaging.load_state_dict(model.state_dict())
    for norm in averaging.modules():
        if hasattr(norm, "num_batches_tracked"):
            norm.num_batches_tracked.zero_()
    with torch.no_grad():
        for batch in batches:
            averaging.train()(batch)
    recalibrate(model, batches)
    for one, other in zip(model.buffers(), averaging.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_padding_is_excluded_and_steps_not_reached_repeat_the_last():
    model = randomize(BNLSTM(2, 3, max_length=6))
    lengths = torch.tensor([3, 3, 2, 1])
    x = torch.randn(5, 4, 2)
    for n, length in enumerate(lengths):
        x[length:, n] = float("nan")
    recalibrate(model, [(x, lengths)])
    for norm in (model.input_norm_l0, model.hidden_norm_l0, model.cell_norm_l0):
        assert norm.running_mean.isfinite().all()
        assert norm.num_batches_tracked.tolist() == [1, 1, 1, 0, 0, 0]
        for later in (3, 4, 5):
            torch.testing.assert_close(norm.running_var[later], norm.running_var[2])


def test_weights_and_mode_stay_and_dropout_is_off():
    model = BNLSTMModel(BNLSTM(2, 3, 2, max_length=4, dropout=0.9), 2)
    weights = [p.clone() for p in model.parameters()]
    batch = torch.randn(4, 8, 2)
    recalibrate(model, [batch])
    first = model.rnn.cell_norm_l1.running_mean.clone()
    recalibrate(model, [batch])
    torch.testing.assert_close(model.rnn.cell_norm_l1.running_mean, first, rtol=0, atol=0)
    assert model.training
    for before, after in zip(weights, model.parameters(), strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=0)


def test_a_model_of_ones_own_runs_as_it_says():
    model = nn.ModuleDict({"embed": nn.Embedding(5, 2), "rnn": BNLSTM(2, 3, max_length=4)})
    tokens = torch.randint(0, 5, (4, 8))
    recalibrate(model, [tokens], forward=lambda m, batch: m["rnn"](m["embed"](batch)))
    assert model["rnn"].input_norm_l0.num_batches_tracked.tolist() == [1] * 4


def broken(batch):
    yield batch
    raise RuntimeError("data loader")


def test_an_interrupted_recalibration_changes_nothing():
    model = randomize(BNLSTM(2, 3, max_length=4))
    before = [buffer.clone() for buffer in model.buffers()]
    with pytest.raises(RuntimeError, match="data loader"):
        recalibrate(model, broken(torch.randn(4, 8, 2)))
    for one, other in zip(before, model.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("model", "batches", "message"),
    [
        (nn.Linear(2, 2), [], "no normalization"),
        (BNLSTM(2, 3, max_length=4), [], "no minibatch"),
        (BNLSTM(2, 3, max_length=4), [torch.randn(4, 1, 2)], "no minibatch"),
        (BNLSTM(2, 3, max_length=4), [{"x": 1}], "is a dict"),
    ],
)
def test_errors_say_what_to_pass(model, batches, message):
    with pytest.raises(InputError, match=message):
        recalibrate(model, batches)


def test_a_smaller_last_minibatch_counts_by_its_streams():
    model = BNLSTM(2, 3, max_length=1, dtype=torch.float64)
    batches = [torch.randn(1, streams, 2, dtype=torch.float64) for streams in (6, 6, 2)]
    recalibrate(model, batches)
    products = [batch[0] @ model.weight_ih_l0.detach().T for batch in batches]
    mean = torch.cat(products).mean(0)  # of streams, not of minibatches
    deviations = sum((product - product.mean(0)).square().sum(0) for product in products)
    torch.testing.assert_close(model.input_norm_l0.running_mean[0], mean)
    torch.testing.assert_close(model.input_norm_l0.running_var[0], deviations / (5 + 5 + 1))
