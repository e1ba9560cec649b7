"""StepwiseBatchNorm against torch.nn.BatchNorm1d and the formula."""

import pytest
import torch
from torch import nn

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.nn import StepwiseBatchNorm
from tests.models import randomize


def test_each_step_trains_like_a_batch_norm_of_its_own():
    norm = StepwiseBatchNorm(3, 2, gamma_init=1.0)
    peers = [nn.BatchNorm1d(3, momentum=0.3), nn.BatchNorm1d(3, momentum=0.3)]
    for _ in range(3):
        for step in (0, 1):
            x = torch.randn(5, 3)
            torch.testing.assert_close(norm(x, step), peers[step](x), rtol=0, atol=0)
    for step, peer in enumerate(peers):
        torch.testing.assert_close(norm.running_mean[step], peer.running_mean)
        torch.testing.assert_close(norm.running_var[step], peer.running_var)
    assert norm.num_batches_tracked.tolist() == [3, 3]


def test_without_momentum_all_minibatches_weigh_the_same():
    norm = StepwiseBatchNorm(3, 1, momentum=None)
    batches = [torch.randn(5, 3) for _ in range(4)]
    for x in batches:
        norm(x, 0)
    means = torch.stack([x.mean(0) for x in batches])
    variances = torch.stack([x.var(0) for x in batches])  # unbiased, as in torch
    torch.testing.assert_close(norm.running_mean[0], means.mean(0))
    torch.testing.assert_close(norm.running_var[0], variances.mean(0))


@pytest.mark.parametrize("beta", [True, False])
def test_steps_of_a_tensor_are_those_of_ints(beta):
    norm = randomize(StepwiseBatchNorm(3, 4, beta=beta, dtype=torch.float64))
    x = torch.randn(6, 3, dtype=torch.float64)
    steps = [0, 1, 2, 3, 4, 9]
    mixed = norm(x, torch.tensor(steps))
    for row, step in enumerate(steps):
        torch.testing.assert_close(mixed[row : row + 1], norm(x[row : row + 1], step))


def test_past_max_length_the_last_row_is_used_and_trained():
    norm = randomize(StepwiseBatchNorm(3, 2))
    x = torch.randn(4, 3)
    torch.testing.assert_close(norm(x, 7), norm(x, 1), rtol=0, atol=0)
    first = norm.running_mean[0].clone()
    norm.train()(x, 7)
    assert norm.num_batches_tracked.tolist() == [0, 1]
    torch.testing.assert_close(norm.running_mean[0], first, rtol=0, atol=0)


def test_a_single_row_uses_and_keeps_the_population_statistics():
    norm = randomize(StepwiseBatchNorm(3, 2))
    x = torch.randn(1, 3)
    expected = norm(x, 0)
    before = norm.running_mean.clone()
    torch.testing.assert_close(norm.train()(x, 0), expected, rtol=0, atol=0)
    torch.testing.assert_close(norm.running_mean, before, rtol=0, atol=0)


def test_mixed_steps_have_no_minibatch_in_training():
    with pytest.raises(InputError, match="one int"):
        StepwiseBatchNorm(3, 2)(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))


def test_extra_repr_tells_instances_apart():
    assert "max_length=2" in repr(StepwiseBatchNorm(3, 2))
