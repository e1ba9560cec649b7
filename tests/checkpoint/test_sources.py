"""The random sources compute what torch and the recorded checkpoints say they should.

`cell_of` states each family's format a second time, as data: torch's own LSTM (gates, weights,
layers, directions, lengths) and F.batch_norm (eps, which path has what, rows of statistics) are
then fed from it.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bnlstm_deploy.npz import read_npz
from tests.checkpoint.sources import SOURCES, hellozgy, jihunchoi, wrapped

RECORDED = Path(__file__).parents[3] / "shared" / "checkpoints"


class Cell(NamedTuple):
    """One layer and direction at one step. Weights [4H, in]; gates as stored, in `order`."""

    order: str
    w_x: torch.Tensor
    w_h: torch.Tensor
    bias: torch.Tensor
    norms: dict[
        str, tuple[torch.Tensor | None, ...]
    ]  # path -> mean, var, gamma, beta; a path that is not there has none
    eps: float = 1e-5
    forget_bias: float = 0.0


def cell_of(source, layer=0, backwards=0, step=0):
    own = source.tensors.get("model", source.tensors)
    p = {
        key.removeprefix(source.prefix): torch.from_numpy(np.asarray(value)).double()
        for key, value in own.items()
    }

    def norm(mean, var, gamma, beta=None):
        mean, var = (v[min(step, len(v) - 1)] if v.ndim == 2 else v for v in (p[mean], p[var]))
        return mean, var, p.get(gamma), p.get(beta)

    def torch_norm(k):
        last = max((n for n in range(50) if f"{k}.running_mean_{n}" in p), default=None)
        end = "" if last is None else f"_{min(step, last)}"
        return norm(f"{k}.running_mean{end}", f"{k}.running_var{end}", f"{k}.weight", f"{k}.bias")

    def torch_norms(**keys):
        return {path: torch_norm(key) for path, key in keys.items()}

    match source.name:
        case "jihunchoi" | "jihunchoi_2017" | "jihunchoi_2017_first" | "hellozgy":
            order, k = "fiog", f"cell_{layer}."
            if source.name == "hellozgy":
                order, k = "ifog", ("lstm_f.", "lstm_b.")[backwards]
            w_x, w_h = p[k + "weight_ih"], p[k + "weight_hh"]
            if not source.name.endswith("first"):
                w_x, w_h = w_x.T, w_h.T
            norms = torch_norms(x=k + "bn_ih", h=k + "bn_hh", c=k + "bn_c")
            return Cell(order, w_x, w_h, p[k + "bias"], norms)
        case "mrubio":
            k, end = f"layers.{layer}.", "_reverse" if backwards else ""
            weights = (p[k + "weight_ih" + end], p[k + "weight_hh" + end])
            norms = torch_norms(h=k + "batch_norms.0", x=k + "batch_norms.1", c=k + "batch_norms.2")
            return Cell("ifgo", *weights, p[k + "bias" + end].flatten(), norms)
        case "houlu":
            k = f"rnns.{layer}.lstm_cell."
            norms = torch_norms(x=k + "batchnorm_ih", h=k + "batchnorm_hh")
            weights = (p[k + "weight_ih_l0"], p[k + "weight_hh_l0"])
            return Cell("ifgo", *weights, p[k + "bias_ih_l0"], norms)
        case "cooijmans":
            names = [("x", "b"), ("h", "a"), ("c", "c")]
            betas = {"c": "c_betas"}
            norms = {
                path: norm(f"{k}_mean", f"{k}_var", f"{k}_gammas", betas.get(k))
                for path, k in names
            }
            return Cell("gfio", p["Wx"].T, p["Wa"].T, p["ab_betas"], norms)
        case "seqsleepnet" | "olavhn":
            norms = {
                path: norm(f"{k}/pop_mean", f"{k}/pop_var", f"{k}/scale", f"{k}/offset")
                for path, k in [("x", "xh"), ("h", "hh"), ("c", "c")]
            }
            weights = (p["W_xh"].T, p["W_hh"].T)
            if source.name == "olavhn":
                return Cell("igfo", *weights, p["bias"], norms, 1e-3)
            return Cell("fiog", *weights, torch.zeros_like(p["hh/offset"]), norms)
        case "sonnet":
            norms = {
                k: norm(f"{s}_mean", f"{s}_variance", f"gamma_{k}", f"beta_{k}")
                for k, s in [(k, f"batch_norm_{k}/moving") for k in "xhc"]
                if f"gamma_{k}" in p
            }
            return Cell("igfo", p["w_gates_x"].T, p["w_gates_h"].T, p["b_gates"], norms, 1e-3, 1.0)
        case "batchnorm_lstm_pypi":
            norms = {
                path: norm(f"running_mean_{k}", f"running_var_{k}", f"gamma_{k}", f"beta_{k}")
                for path, k in [(path, f"{path}{layer + 1}") for path in "xhc"]
            }
            weights = (p[f"W{layer + 1}"].T, p[f"U{layer + 1}"].T)
            return Cell("gifo", *weights, p[f"b{layer + 1}"], norms)
        case "musyoku":
            # from unit by unit to gate by gate; the c path, one entry a unit, stays as it is
            gates = torch.arange(4 * source.hidden).reshape(source.hidden, 4).T.flatten()
            norms = {
                path: norm(f"bn{path}/avg_mean", f"bn{path}/avg_var", f"bn{path}/gamma", "bnc/beta")
                for path in "xhc"
            }
            for path in "xh":
                mean, var, gamma, _ = norms[path]
                norms[path] = (mean[gates], var[gates], gamma[gates], None)
            weights = (p["wx/W"][gates], p["wh/W"][gates])
            return Cell("gifo", *weights, p["bias/b"][gates], norms, 0.0)
    raise AssertionError(source.name)


def torch_step(cell, x, h, c):
    """By F.batch_norm; h None: no hidden path."""

    def norm(path, v):
        if path not in cell.norms:
            return v
        mean, var, gamma, beta = cell.norms[path]
        return functional.batch_norm(v, mean, var, gamma, beta, eps=cell.eps)

    total = norm("x", functional.linear(x, cell.w_x)) + cell.bias
    if h is not None:
        total = total + norm("h", functional.linear(h, cell.w_h))
    gates = dict(zip(cell.order, total.chunk(4, dim=1), strict=True))
    c = torch.sigmoid(gates["f"] + cell.forget_bias) * c + gates["i"].sigmoid() * gates["g"].tanh()
    return gates["o"].sigmoid() * norm("c", c).tanh(), c


def torch_lstm(source):
    """torch.nn.LSTM of a source whose normalizations only add their beta to x and h."""
    directions, H = len(source.cells[0]), source.hidden
    lstm = torch.nn.LSTM(
        source.x.shape[2], H, len(source.cells), batch_first=True,
        bidirectional=directions == 2, dtype=torch.float64,
    )  # fmt: skip
    state = {}
    for layer in range(len(source.cells)):
        for backwards in range(directions):
            cell = cell_of(source, layer, backwards)
            bias = cell.bias.clone()
            for path in "xh":
                beta = cell.norms[path][3] if path in cell.norms else None
                bias += 0 if beta is None else beta
            blocks = [slice(H * n, H * (n + 1)) for n in map(cell.order.index, "ifgo")]
            name = f"_l{layer}" + "_reverse" * backwards
            state["weight_ih" + name] = torch.cat([cell.w_x[rows] for rows in blocks])
            state["weight_hh" + name] = torch.cat([cell.w_h[rows] for rows in blocks])
            state["bias_ih" + name] = torch.cat([bias[rows] for rows in blocks])
            state["bias_ih" + name][H : 2 * H] += cell.forget_bias
            state["bias_hh" + name] = torch.zeros_like(bias)
    lstm.load_state_dict(state)
    return lstm.requires_grad_(requires_grad=False)


def neutral(source):
    """`source` with normalizations that do nothing, but for the betas of x and h."""
    eps = cell_of(source).eps
    values = {
        r"_var|/moving_variance": 1 - eps,
        r"_mean": 0.0,
        r"gamma|scale|(bn_\w+|batch_norms\.\d|batchnorm_[ih]h)\.weight$": 1.0,
        r"(bn_c|batch_norms\.2)\.bias$|beta_c|c_betas|bnc/beta|^c/offset": 0.0,
    }

    def replaced(tensors):
        result = {}
        for key, value in tensors.items():
            hits = [v for pattern, v in values.items() if re.search(pattern, key)]
            result[key] = replaced(value) if isinstance(value, dict) else value
            if hits and "batchnorm_c" not in key:  # which must not matter, whatever it holds
                result[key] = np.full(value.shape, hits[0])
        return result

    return replace(source, tensors=replaced(source.tensors))


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("lengths", [None, [9, 4, 1]])
@pytest.mark.parametrize("given", [False, True])
def test_without_normalization_it_is_torch_lstm(name, lengths, given):
    source = neutral(SOURCES[name](3))
    x = source.x
    _, h0, c0 = source.run(x[:, :0])
    if given:
        h0, c0 = np.random.default_rng(4).uniform(-1, 1, (2, *h0.shape))
    output, h_n, c_n = source.run(x, *((h0, c0) if given else ()), lengths=lengths)
    sequence = torch.from_numpy(x)
    if lengths:
        sequence = pack_padded_sequence(sequence, lengths, batch_first=True)
    expected, (h, c) = torch_lstm(source)(sequence, (torch.from_numpy(h0), torch.from_numpy(c0)))
    if lengths:
        expected, _ = pad_packed_sequence(expected, batch_first=True, total_length=x.shape[1])
        valid = (np.arange(x.shape[1]) < np.array(lengths)[:, None])[..., None]
        output, expected = output * valid, expected * torch.from_numpy(valid)
    for ours, theirs in [(output, expected), (h_n, h), (c_n, c)]:
        assert_allclose(ours, theirs.numpy(), atol=1e-12)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("given", [False, True])
def test_every_step_is_torch_batch_norm(name, given):
    source = SOURCES[name](5)
    _, *start = source.run(source.x[:, :0])
    if given:
        start = np.random.default_rng(7).uniform(-1, 1, (2, *start[0].shape))
    output, h_n, c_n = source.run(source.x, *(start if given else ()))
    h0, c0 = map(torch.tensor, start)
    sequence, n = torch.from_numpy(source.x), 0
    for layer, directions in enumerate(source.cells):
        outputs = []
        for backwards in range(len(directions)):
            h, c, steps = h0[n], c0[n], []
            frames = sequence.flip(1) if backwards else sequence
            for t, frame in enumerate(frames.unbind(1)):
                skipped = name == "musyoku" and t == 0 and not given
                h, c = torch_step(
                    cell_of(source, layer, backwards, t), frame, None if skipped else h, c
                )
                steps.append(h)
            assert_allclose(h_n[n], h.numpy(), atol=1e-12)
            assert_allclose(c_n[n], c.numpy(), atol=1e-12)
            stacked = torch.stack(steps, 1)
            outputs.append(stacked.flip(1) if backwards else stacked)
            n += 1
        sequence = torch.cat(outputs, -1)
    assert_allclose(output, sequence.numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("stacked_per_step", jihunchoi(0, layers=2, input_size=8, hidden_size=32, steps=8)),
        ("bidirectional_shared", hellozgy(0, directions=2, input_size=8, hidden_size=32)),
    ],
)
def test_recorded_float64_outputs_are_met(name, source):
    path = RECORDED / f"{name}.pt"
    if not path.exists():
        pytest.skip("the recorded checkpoints are not beside this repository")
    state = {k: v.numpy() for k, v in torch.load(path, weights_only=True).items()}
    source = wrapped(source)
    generated = source.tensors
    assert {k for k in state if k[:3] != "fc."} == {k for k in generated if k[:3] != "fc."}
    for key in state.keys() & generated.keys() - {"fc.weight", "fc.bias"}:
        assert (state[key].shape, state[key].dtype) == (generated[key].shape, generated[key].dtype)
    recorded = read_npz(RECORDED / f"{name}.npz")
    result = replace(source, tensors=state).run(recorded["x"])
    for ours, theirs in zip(result, ("output", "h_n", "c_n"), strict=True):
        assert_allclose(ours, recorded[f"{theirs}_fp64"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SOURCES)
def test_a_seed_is_one_checkpoint_and_every_array_is_as_stored(name):
    one, again, other = (SOURCES[name](seed) for seed in (1, 1, 2))
    own = one.tensors.get("model", one.tensors)
    for key, value in own.items():
        counter = key.endswith(("num_batches_tracked", "/N"))
        assert value.dtype == (np.int64 if counter else np.float32), key
    for ours, theirs in zip(one.run(one.x), again.run(again.x), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert np.abs(one.run(one.x)[0] - other.run(one.x)[0]).max() > 0.1


@pytest.mark.parametrize("seed", range(3))
def test_what_houlu_stores_and_never_uses_does_not_matter(seed):
    source = SOURCES["houlu_per_step"](seed)
    unused = re.compile(r"batchnorm_c|_full_precision|decoder")
    rest = {k: v for k, v in source.tensors["model"].items() if not unused.search(k)}
    assert len(rest) < len(source.tensors["model"]) - 10
    for ours, theirs in zip(
        source.run(source.x), replace(source, tensors={"model": rest}).run(source.x), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
