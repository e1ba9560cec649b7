"""The variants of BN-LSTMs: statistics, gamma and beta per step or not, eps, initial states."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.nn import BNLSTM, StepwiseBatchNorm, recalibrate
from bnlstm_deploy.normalizations import PATHS
from tests import reference
from tests.models import calls, models, randomize


@given(st.data())
def test_eps_of_each_path_and_learned_initial_states(data):
    eps = {path: data.draw(st.sampled_from([1e-6, 1e-4, 1e-2])) for path in PATHS}
    model = data.draw(models(eps=eps, learn_initial_state=True))
    x, _, lengths, _ = data.draw(calls(model))
    time_major = x.transpose(0, 1) if model.batch_first else x
    h, c = (tensor.detach().numpy() for tensor in model.initial_state(len(lengths)))
    expected = reference.run(model, time_major.numpy(), h, c, lengths.tolist(), [0] * len(lengths))
    with torch.no_grad():
        output, (h_n, c_n) = model(x, lengths=lengths)
    output = output.transpose(0, 1) if model.batch_first else output
    for actual, truth in zip((output, h_n, c_n), expected, strict=True):
        np.testing.assert_allclose(actual.numpy(), truth, rtol=1e-10, atol=1e-12)


def test_which_rows_each_variant_keeps():
    model = BNLSTM(
        2,
        3,
        max_length=5,
        beta=PATHS,
        shared_statistics=("input",),
        affine_per_step=("input", "cell"),
    )
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items() if "norm" in name}
    assert shapes["input_norm_l0.running_mean"] == (1, 12)
    assert shapes["input_norm_l0.weight"] == (1, 12)
    assert shapes["hidden_norm_l0.running_mean"] == (5, 12)
    assert shapes["hidden_norm_l0.bias"] == (12,)
    assert shapes["cell_norm_l0.running_var"] == (5, 3)
    assert shapes["cell_norm_l0.bias"] == (5, 3)


def test_gamma_and_beta_per_step_train_apart():
    norm = StepwiseBatchNorm(4, 3, affine_per_step=True)
    norm(torch.randn(6, 4), 1).square().sum().backward()
    for parameter in (norm.weight, norm.bias):
        assert (parameter.grad.abs().sum(1) > 0).tolist() == [False, True, False]


def test_sequence_wise_training_is_one_batch_norm_over_all_valid_timesteps():
    """Laurent et al. 2015: the statistics of the input product over streams and time at once."""
    model = randomize(BNLSTM(2, 3, max_length=4, sequence_wise=True)).train()
    assert model.shared_statistics == ("input",)
    x = torch.randn(5, 3, 2)
    lengths = torch.tensor([5, 2, 0])
    before = model.input_norm_l0.running_mean.clone()
    model(x, lengths=lengths)
    products = F.linear(x, model.weight_ih_l0)
    valid = torch.cat([products[:end, n] for n, end in enumerate(lengths)])
    expected = 0.7 * before + 0.3 * valid.mean(0)
    torch.testing.assert_close(model.input_norm_l0.running_mean, expected)
    assert model.input_norm_l0.num_batches_tracked.tolist() == [1]


def test_sequence_wise_statistics_recalibrate_to_those_of_the_data():
    model = BNLSTM(2, 3, max_length=4, sequence_wise=True)
    x = torch.randn(6, 10, 2)
    recalibrate(model, [x])
    products = F.linear(x, model.weight_ih_l0).flatten(0, 1)
    torch.testing.assert_close(model.input_norm_l0.running_mean[0], products.mean(0))
    torch.testing.assert_close(model.input_norm_l0.running_var[0], products.var(0))


@pytest.mark.parametrize("lengths", [None, torch.tensor([4, 0, 2])])
def test_in_evaluation_sequence_wise_is_shared_statistics(lengths):
    settings = {"max_length": 3, "shared_statistics": ("input",)}
    model = randomize(BNLSTM(2, 3, **settings))
    twin = BNLSTM(2, 3, **settings, sequence_wise=True).eval()
    twin.load_state_dict(model.state_dict())
    x = torch.randn(4, 3, 2)
    torch.testing.assert_close(twin(x, lengths=lengths)[0], model(x, lengths=lengths)[0])


def test_a_learned_initial_state_gets_gradients_and_is_where_streams_start():
    model = BNLSTM(2, 3, 2, bidirectional=True, max_length=2, learn_initial_state=True)
    x = torch.randn(3, 4, 2)
    model(x)[0].sum().backward()
    assert model.h_0.shape == model.c_0.shape == (4, 3)
    assert (model.c_0.grad != 0).all()
    model.eval()
    given = model.initial_state(4)
    torch.testing.assert_close(model(x), model(x, given))
    torch.testing.assert_close(model(x[:, 0])[0], model(x)[0][:, 0])
    assert "h_0" not in BNLSTM(2, 3, max_length=2).state_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shared_statistics": ("gate",)}, "shared_statistics is"),
        ({"affine_per_step": "cell"}, "affine_per_step is 'cell'"),
        ({"eps": {"cell": 1e-5}}, "one for each of"),
        ({"eps": {"input": 1e-5, "hidden": -1.0, "cell": 0.0}}, "from 0 to 1"),
        ({"max_length": 0}, "max_length is 0"),
    ],
)
def test_errors_name_the_value(arguments, message):
    with pytest.raises(InputError, match=message):
        BNLSTM(2, 3, **{"max_length": 2} | arguments)
