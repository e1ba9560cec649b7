"""What is trained: names that tell experiments apart, and the baselines' equations."""

import torch
from torch import nn

from tools.study.grid import experiments
from tools.study.models import Experiment, LayerNormLSTM, subsets
from tools.study.tasks import tasks


def test_there_are_eight_subsets():
    assert len(set(subsets())) == 8


def test_names_tell_all_experiments_apart():
    grid = [experiment for name in tasks() for experiment in experiments(name)]
    assert len({experiment.name for experiment in grid}) == len(set(grid)) == len(grid)


def test_without_normalization_it_is_torch_lstm():
    torch.manual_seed(0)
    task = tasks(quick=True)["adding"]
    model = task.model(Experiment("adding", ())).rnn
    torch_lstm = nn.LSTM(2, 8, batch_first=True)
    torch_lstm.load_state_dict(model.state_dict())
    x = torch.randn(3, 5, 2)
    torch.testing.assert_close(model(x)[0], torch_lstm(x)[0])


def test_the_forget_bias_is_added_to_the_forget_gate_alone():
    task = tasks(quick=True)["adding"]
    torch.manual_seed(0)
    plain = task.model(Experiment("adding", ())).rnn
    torch.manual_seed(0)
    other = task.model(Experiment("adding", (), forget_bias=1.0)).rnn
    change = other.bias_ih_l0 - plain.bias_ih_l0
    torch.testing.assert_close(change, torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(8))


def test_layer_normalization_is_over_the_features_of_one_stream():
    torch.manual_seed(0)
    model = LayerNormLSTM(2, 3).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(1, 4, 2, dtype=torch.float64)
    y, (h_n, c_n) = model(x)

    def normalized(v, norm):
        scaled = (v - v.mean()) / (v.var(unbiased=False) + 1e-5).sqrt() * norm.weight
        return scaled if norm.bias is None else scaled + norm.bias

    h = c = torch.zeros(3, dtype=torch.float64)
    for t in range(4):
        gates = normalized(model.weight_ih_l0 @ x[0, t], model.input_norm)
        gates = gates + normalized(model.weight_hh_l0 @ h, model.hidden_norm)
        i, f, g, o = (gates + model.bias_ih_l0 + model.bias_hh_l0).view(4, 3)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * normalized(c, model.cell_norm).tanh()
        torch.testing.assert_close(y[0, t], h)
    torch.testing.assert_close(h_n[0, 0], h)
    torch.testing.assert_close(c_n[0, 0], c)
