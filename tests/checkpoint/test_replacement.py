"""A third party's BN-LSTM swapped for ours inside a model."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnlstm_deploy.checkpoint import replace, shipped_layouts
from bnlstm_deploy.errors import InputError, LayoutError
from bnlstm_deploy.nn import BNLSTM


class StepNorm(nn.Module):
    """Batch normalization with buffers named by step, as in the family `jihunchoi`."""

    def __init__(self, features, steps):
        super().__init__()
        self.steps = steps
        self.weight = nn.Parameter(torch.rand(features) + 0.5)
        self.bias = nn.Parameter(torch.rand(features) - 0.5)
        for step in range(steps):
            self.register_buffer(f"running_mean_{step}", torch.rand(features) - 0.5)
            self.register_buffer(f"running_var_{step}", torch.rand(features) + 0.1)

    def forward(self, x, step):
        step = min(step, self.steps - 1)
        mean, var = getattr(self, f"running_mean_{step}"), getattr(self, f"running_var_{step}")
        return F.batch_norm(x, mean, var, self.weight, self.bias, training=False, eps=1e-5)


class TheirCell(nn.Module):
    def __init__(self, inputs, hidden, steps):
        super().__init__()
        self.weight_ih = nn.Parameter(torch.rand(inputs, 4 * hidden) - 0.5)
        self.weight_hh = nn.Parameter(torch.rand(hidden, 4 * hidden) - 0.5)
        self.bias = nn.Parameter(torch.rand(4 * hidden) - 0.5)
        self.bn_ih, self.bn_hh = StepNorm(4 * hidden, steps), StepNorm(4 * hidden, steps)
        self.bn_c = StepNorm(hidden, steps)

    def forward(self, x, h, c, step):
        gates = self.bn_ih(x @ self.weight_ih, step) + self.bn_hh(h @ self.weight_hh, step)
        f, i, o, g = (gates + self.bias).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * self.bn_c(c, step).tanh(), c


class TheirLSTM(nn.Module):
    """Called `(input_, length=None, hx=None)`; the output is time-major whatever the input is."""

    def __init__(self, inputs, hidden, layers, steps, *, batch_first=False):
        super().__init__()
        self.hidden, self.layers, self.batch_first = hidden, layers, batch_first
        for layer in range(layers):
            cell = TheirCell(hidden if layer else inputs, hidden, steps)
            self.add_module(f"cell_{layer}", cell)

    def forward(self, input_, length=None, hx=None):
        x = input_.transpose(0, 1) if self.batch_first else input_
        time, batch, _ = x.shape
        length = torch.full((batch,), time) if length is None else length
        zeros = torch.zeros(self.layers, batch, self.hidden)
        h_0, c_0 = (zeros, zeros) if hx is None else hx
        finals = []
        for layer in range(self.layers):
            h, c = h_0[layer], c_0[layer]
            outputs = []
            for step in range(time):
                valid = (step < length)[:, None]
                h_next, c_next = getattr(self, f"cell_{layer}")(x[step], h, c, step)
                h, c = torch.where(valid, h_next, h), torch.where(valid, c_next, c)
                outputs.append(h)
            x = torch.stack(outputs)
            finals.append((h, c))
        h_n, c_n = (torch.stack(parts) for parts in zip(*finals, strict=True))
        return x, (h_n, c_n)


class Tagger(nn.Module):
    """A third party's model around it, which uses everything its LSTM has."""

    def __init__(self, *, batch_first):
        super().__init__()
        self.embed = nn.Embedding(10, 3)
        self.encoder = nn.ModuleDict({"rnn": TheirLSTM(3, 5, 2, 4, batch_first=batch_first)})
        self.score = nn.Linear(5, 7)

    def forward(self, tokens, lengths):
        output, (h, _) = self.encoder["rnn"](self.embed(tokens), length=lengths)
        return self.score(output), h


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_rest_of_the_model_goes_on_as_it_is(batch_first):
    model = Tagger(batch_first=batch_first).eval()
    tokens = torch.randint(0, 10, (6, 9) if batch_first else (9, 6))
    lengths = torch.tensor([9, 1, 4, 0, 7, 9])
    expected = model(tokens, lengths)
    replaced = replace(model, {TheirLSTM: "jihunchoi"})
    assert list(replaced) == ["encoder.rnn"]
    assert isinstance(model.encoder["rnn"].rnn, BNLSTM)
    torch.testing.assert_close(model(tokens, lengths), expected)


def test_states_go_in_and_out_by_the_others_names():
    theirs = TheirLSTM(3, 5, 2, 4).eval()
    model = nn.Sequential(theirs)
    x = torch.randn(6, 2, 3)
    state = (torch.randn(2, 2, 5), torch.randn(2, 2, 5))
    expected = theirs(x, hx=state)
    replace(model, {TheirLSTM: "jihunchoi"})
    torch.testing.assert_close(model[0](x, None, state), expected)
    torch.testing.assert_close(model[0](input_=x, hx=state), expected)
    with pytest.raises(InputError, match=r"\['mask'\]; the module that was replaced takes"):
        model[0](x, mask=None)


def test_training_mode_and_dtype_are_kept():
    model = nn.Sequential(TheirLSTM(3, 5, 1, 4)).double().train()
    (rnn,) = replace(model, {TheirLSTM: "jihunchoi"}).values()
    assert rnn.training
    assert rnn.weight_ih_l0.dtype == torch.float64


class OtherGates(TheirLSTM):
    """A copy with another gate order, which no key tells."""

    def __init__(self, *args):
        super().__init__(*args)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.shape[-1] == 20:
                    f, i, o, g = parameter.clone().chunk(4, dim=-1)
                    parameter.copy_(torch.cat([i, f, o, g], dim=-1))
            for buffer in self.buffers():
                if buffer.shape[-1] == 20:
                    f, i, o, g = buffer.clone().chunk(4, dim=-1)
                    buffer.copy_(torch.cat([i, f, o, g], dim=-1))

    def forward(self, input_, length=None, hx=None):
        original = TheirLSTM(3, 5, 1, 4).to(input_.dtype)
        state = {
            key: torch.cat([p[1], p[0], p[2], p[3]], dim=-1) if value.shape[-1] == 20 else value
            for key, value in self.state_dict().items()
            for p in [value.chunk(4, dim=-1)]
        }
        original.load_state_dict(state)
        return original(input_, length, hx)


def test_a_module_that_computes_something_else_is_refused_and_the_reading_named():
    model = nn.Sequential(OtherGates(3, 5, 1, 4)).eval()
    with pytest.raises(LayoutError, match="it does with gate order ifog"):
        replace(model, {OtherGates: "jihunchoi"})
    assert isinstance(model[0], OtherGates)
    layout = shipped_layouts()["jihunchoi"]
    weights = dataclasses.replace(layout.weights, gates="ifog")
    x = torch.randn(6, 2, 3)
    expected = model(x)
    replace(model, {OtherGates: dataclasses.replace(layout, weights=weights)})
    torch.testing.assert_close(model(x), expected)


class Broken(TheirLSTM):
    def forward(self, input_):
        raise RuntimeError("no CUDA")


def test_a_module_that_cannot_be_run_is_replaced_unseen_on_request():
    model = nn.Sequential(Broken(3, 5, 1, 4)).eval()
    with pytest.raises(LayoutError, match=r"no CUDA.*check=False"):
        replace(model, {Broken: "jihunchoi"})
    assert list(replace(model, {Broken: "jihunchoi"}, check=False)) == ["0"]


@pytest.mark.parametrize(
    "layouts", [{}, {"TheirLSTM": "jihunchoi"}, {nn.Linear(1, 1): "jihunchoi"}]
)
def test_layouts_are_by_class(layouts):
    with pytest.raises(InputError, match="pass the layout of each class of modules, by the class"):
        replace(nn.Sequential(nn.Linear(1, 1)), layouts)


def test_refusals():
    with pytest.raises(InputError, match="Linear holds no TheirLSTM"):
        replace(nn.Linear(2, 2), {TheirLSTM: "jihunchoi"})
    with pytest.raises(InputError, match="is TheirLSTM"):
        replace(TheirLSTM(3, 5, 1, 4), {TheirLSTM: "jihunchoi"})
    model = nn.Sequential(TheirLSTM(3, 5, 1, 4))
    with pytest.raises(LayoutError, match="does not match the layout mrubio"):
        replace(model, {TheirLSTM: "mrubio"})
    with pytest.raises(LayoutError, match=r"olavhn does not say how its module is called"):
        replace(model, {TheirLSTM: "olavhn"})
    assert isinstance(model[0], TheirLSTM)
    assert np.isfinite(model(torch.randn(2, 2, 3))[0].detach().numpy()).all()
