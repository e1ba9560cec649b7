"""Layouts of code that keeps an array a gate, biases on both products, and gates by other letters.

The layouts are written from docs/layouts.md; the code here is what a checkpoint of that style comes
from, and makes the recording.
"""

import numpy as np
import pytest
import torch
from torch import nn

from bnlstm_deploy.checkpoint import compare_recording, import_checkpoint, read_recording, replace
from bnlstm_deploy.checkpoint.ambiguities import find_fit
from bnlstm_deploy.checkpoint.parse import parse_layout
from bnlstm_deploy.errors import LayoutError

D, H, STEPS, T, N = 3, 4, 5, 7, 2

BY_LETTER = """
title = "W_xi, W_xf, W_xc, W_xo, as the equations have it"
[weights]
input = "W_x{gate}"
hidden = "W_h{gate}"
gates = "ifco"
orientation = "in_out"
[bias]
keys = "b_{gate}"
[normalization]
mean = "{norm}_{gate}.mean"
var = "{norm}_{gate}.var"
gamma = "{norm}_{gate}.gamma"
input.norm = "x"
hidden.norm = "h"
cell = { mean = "c.mean", var = "c.var", gamma = "c.gamma", beta = "c.beta" }
"""

BY_MODULE = """
title = "a Linear and a list of BatchNorm1d for each gate"
[weights]
input = "x.{gate}.weight"
hidden = "h.{gate}.weight"
gates = "ijfo"
gate_names = ["input", "candidate", "forget", "output"]
orientation = "out_in"
[bias]
keys = "x.{gate}.bias"
hidden = "h.{gate}.bias"
inside = ["input", "hidden"]
[normalization]
mean = "{norm}.{gate}.{step}.running_mean"
var = "{norm}.{gate}.{step}.running_var"
gamma = "{norm}.{gate}.{step}.weight"
beta = "{norm}.{gate}.{step}.bias"
count = "{norm}.{gate}.{step}.num_batches_tracked?"
input.norm = "bn_x"
hidden.norm = "bn_h"
[normalization.cell]
mean = "bn_c.{step}.running_mean"
var = "bn_c.{step}.running_var"
gamma = "bn_c.{step}.weight"
beta = "bn_c.{step}.bias"
count = "bn_c.{step}.num_batches_tracked?"
"""

TWO_BIASES = """
title = "nn.Linear(D, 4H) and nn.Linear(H, 4H), both with the bias that is their default"
[weights]
input = "i2h.weight"
hidden = "h2h.weight"
gates = "ifuo"
orientation = "out_in"
[bias]
keys = "i2h.bias"
hidden = "h2h.bias"
inside = ["input", "hidden"]
[normalization]
mean = "{norm}.running_mean"
var = "{norm}.running_var"
gamma = "{norm}.weight"
beta = "{norm}.bias"
count = "{norm}.num_batches_tracked?"
input.norm = "bn_i"
hidden.norm = "bn_h"
cell.norm = "bn_c"
[forward]
arguments = { frames = "input" }
batch_first = true
returns = "output"
"""

OTHER_LETTERS = """
title = "the gates i, c, f, o, with biases after the normalizations"
[weights]
input = "kernel"
hidden = "recurrent"
gates = "icfo"
orientation = "in_out"
[bias]
keys = "bias_x"
hidden = "bias_h"
[normalization]
mean = "{norm}/mean"
std = "{norm}/std"
gamma = "{norm}/gamma"
eps = 0
input.norm = "x"
hidden.norm = "h"
cell.norm = "c"
"""


def lstm(products, normalize_cell, time=T, batch=N):
    """Run the recurrence; `products(t, h)` are the gates i, f, g, o before their functions."""
    h = c = np.zeros((batch, H))
    outputs = []
    for t in range(time):
        i, f, g, o = products(t, h)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(normalize_cell(t, c))
        outputs.append(h)
    return np.stack(outputs), h, c


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def norm(x, mean, var, gamma, beta=0.0, eps=1e-5):
    return gamma * (x - mean) / np.sqrt(var + eps) + beta


def by_letter(draw):
    tensors = {f"W_x{g}": draw(D, H) for g in "ifco"} | {f"W_h{g}": draw(H, H) for g in "ifco"}
    tensors |= {f"b_{g}": draw(H) for g in "ifco"}
    for place in (*(f"{p}_{g}" for p in "xh" for g in "ifco"), "c"):
        tensors |= {f"{place}.mean": draw(STEPS, H), f"{place}.gamma": draw(H)}
        tensors[f"{place}.var"] = draw(STEPS, H) ** 2 + 0.1
    tensors["c.beta"] = draw(H)

    def at(place, value, t):
        k = min(t, STEPS - 1)
        own = {name: tensors[f"{place}.{name}"] for name in ("mean", "var", "gamma")}
        beta = tensors.get(f"{place}.beta", 0.0)
        return norm(value, own["mean"][k], own["var"][k], own["gamma"], beta)

    def run(x):
        def products(t, h):
            return [
                at(f"x_{g}", x[t] @ tensors[f"W_x{g}"], t)
                + at(f"h_{g}", h @ tensors[f"W_h{g}"], t)
                + tensors[f"b_{g}"]
                for g in "ifco"
            ]

        return lstm(products, lambda t, c: at("c", c, t))

    return tensors, run


class ByModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.x = nn.ModuleDict({g: nn.Linear(D, H) for g in self.names})
        self.h = nn.ModuleDict({g: nn.Linear(H, H) for g in self.names})
        self.bn_x, self.bn_h = (nn.ModuleDict({g: norms(H) for g in self.names}) for _ in "xh")
        self.bn_c = norms(H)

    names = ("input", "forget", "candidate", "output")

    def run(self, x):
        def products(t, h):
            k = min(t, STEPS - 1)
            return [
                apply(self.bn_x[g][k], apply(self.x[g], x[t]))
                + apply(self.bn_h[g][k], apply(self.h[g], h))
                for g in self.names
            ]

        return lstm(products, lambda t, c: apply(self.bn_c[min(t, STEPS - 1)], c))


def norms(size):
    return nn.ModuleList(nn.BatchNorm1d(size) for _ in range(STEPS))


def apply(module, x):
    with torch.no_grad():
        return module(torch.from_numpy(x)).numpy()


class TwoBiases(nn.Module):
    def __init__(self):
        super().__init__()
        self.i2h, self.h2h = nn.Linear(D, 4 * H), nn.Linear(H, 4 * H)
        self.bn_i, self.bn_h, self.bn_c = (nn.BatchNorm1d(size) for size in (4 * H, 4 * H, H))

    def forward(self, frames):  # (N, T, D)
        h = c = frames.new_zeros(len(frames), H)
        outputs = []
        for x in frames.unbind(1):
            i, f, u, o = (self.bn_i(self.i2h(x)) + self.bn_h(self.h2h(h))).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * u.tanh()
            h = o.sigmoid() * self.bn_c(c).tanh()
            outputs.append(h)
        self.last = h.detach(), c.detach()
        return torch.stack(outputs, 1)

    def run(self, x):
        with torch.no_grad():
            output = self(torch.from_numpy(x).transpose(0, 1)).transpose(0, 1)
        return output.numpy(), *(state.numpy() for state in self.last)


def of_module(kind):
    def make(draw):
        module = kind().double().eval()
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                value = torch.from_numpy(draw(*tensor.shape))
                tensor.copy_(value**2 + 0.1 if name.endswith("var") else value)
        return dict(module.state_dict()), module.run

    return make


def other_letters(draw):
    tensors = {"kernel": draw(D, 4 * H), "recurrent": draw(H, 4 * H)}
    tensors |= {"bias_x": draw(4 * H), "bias_h": draw(4 * H)}
    for place, size in (("x", 4 * H), ("h", 4 * H), ("c", H)):
        tensors |= {f"{place}/mean": draw(size), f"{place}/gamma": draw(size)}
        tensors[f"{place}/std"] = np.abs(draw(size)) + 0.3

    def at(place, value):
        mean, std, gamma = (tensors[f"{place}/{name}"] for name in ("mean", "std", "gamma"))
        return norm(value, mean, std**2, gamma, eps=0)

    def run(x):
        def products(t, h):
            gates = at("x", x[t] @ tensors["kernel"]) + at("h", h @ tensors["recurrent"])
            i, c, f, o = np.split(gates + tensors["bias_x"] + tensors["bias_h"], 4, axis=1)
            return i, f, c, o

        return lstm(products, lambda t, c: at("c", c))

    return tensors, run


STYLES = {
    "by letter": (BY_LETTER, by_letter),
    "by module": (BY_MODULE, of_module(ByModule)),
    "two biases": (TWO_BIASES, of_module(TwoBiases)),
    "other letters": (OTHER_LETTERS, other_letters),
}


def made(style, folder):
    """Write layout, checkpoint and recording; return their paths."""
    layout, make = STYLES[style]
    generator = np.random.default_rng(0)
    tensors, run = make(lambda *shape: generator.standard_normal(shape))
    paths = folder / "mine.toml", folder / "source.pt", folder / "recorded.npz"
    paths[0].write_text(layout)
    torch.save({name: torch.as_tensor(value) for name, value in tensors.items()}, paths[1])
    x = np.random.default_rng(1).standard_normal((T, N, D))
    output, h, c = run(x)
    np.savez(paths[2], x=x, output=output, h_n=h[None], c_n=c[None])
    return paths


@pytest.mark.parametrize("style", STYLES)
def test_it_computes_what_was_recorded(style, tmp_path):
    layout, checkpoint, recorded = made(style, tmp_path)
    imported = import_checkpoint(checkpoint, layout=layout)
    agreement = compare_recording(imported.model, read_recording(recorded))
    assert agreement.holds, agreement


@pytest.mark.parametrize("style", ["by module", "two biases"])
@pytest.mark.parametrize("path", ["input", "hidden"])
def test_a_bias_inside_or_outside_is_an_ambiguity(style, path, tmp_path):
    layout, checkpoint, recorded = made(style, tmp_path)
    other = "hidden" if path == "input" else "input"
    layout.write_text(layout.read_text().replace('["input", "hidden"]', f'"{other}"'))
    imported = import_checkpoint(checkpoint, layout=layout)
    recording = read_recording(recorded)
    assert not compare_recording(imported.model, recording).holds
    fit = find_fit(imported.match, imported.tensors, recording)
    assert fit is not None
    assert fit.reading.changes == (f"the {path} bias inside its normalization",)


def test_modules_that_return_the_output_alone_and_are_always_batch_first():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = TwoBiases()
            self.head = nn.Linear(H, 2)

        def forward(self, x):
            return self.head(self.rnn(frames=x))

    model = Model().eval()
    x = torch.randn(N, T, D, generator=torch.Generator().manual_seed(0))
    expected = model(x)
    replaced = replace(model, {TwoBiases: parse_layout(TWO_BIASES, "mine", "mine.toml")})
    assert replaced["rnn"].batch_first
    torch.testing.assert_close(model(x), expected)


class Triple(TwoBiases):
    def forward(self, frames):
        output = super().forward(frames)
        return output, *(state[None] for state in self.last)


def test_modules_that_return_three_tensors():
    layout = TWO_BIASES.replace('returns = "output"', 'returns = "output, h, c"')
    model = nn.Sequential(Triple()).eval()
    x = torch.randn(N, T, D, generator=torch.Generator().manual_seed(0))
    expected = model(x)
    replace(model, {Triple: parse_layout(layout, "mine", "mine.toml")})
    torch.testing.assert_close(model(x), expected)


def test_modules_that_return_something_else():
    model = nn.Sequential(Triple()).eval()
    with pytest.raises(LayoutError, match="it returns a tuple, not one tensor"):
        replace(model, {Triple: parse_layout(TWO_BIASES, "mine", "mine.toml")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('gates = "ifco"', 'gates = "ifcz"'), "it must be an order of 'ifgo'"),
        (('gates = "ifco"', 'gates = "ifco"\ngate_names = ["a", "b"]'), "name four gates"),
        (('orientation = "in_out"', ""), "is an array a gate, whose weights need an orientation"),
        (('mean = "c.mean"', 'mean = "c{gate}.mean"'), "there is one cell"),
        (('keys = "b_{gate}"', 'keys = "b_{gate}"\nforget = 1e308'), "bias.forget is 1e.308"),
        (('keys = "b_{gate}"', 'keys = "b_{gate}"\ninside = "cell"'), "inside"),
        (("input.norm", "eps = 1e308\ninput.norm"), "eps is 1e.308; it must be from 0 to 1"),
    ],
)
def test_mistakes(change, message):
    with pytest.raises(LayoutError, match=message):
        parse_layout(BY_LETTER.replace(*change), "mine", "mine.toml")
