"""Random checkpoints as public BN-LSTM code stores them, and what that code computes from them.

Written from the recorded facts about the sources, apart from the importer: the importer's truth.
Every family spells out its own step, naming the four gates in the order in which it stores them;
what the families share (an affine map, the loops over time and layers) knows nothing of gates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, partialmethod
from typing import Any

import numpy as np
from numpy import tanh
from numpy.typing import NDArray

Array = NDArray[Any]
Tensors = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A checkpoint of the family `name`, and what that family computes from it.

    `replace(source, tensors=...)` runs the family on other tensors of the same sizes.
    """

    name: str
    tensors: Tensors  # as stored, nested as the container nests
    x: Array  # (N, T, D)
    step: Callable[..., tuple[Array, Array]]  # (tensors, cell, x_t, h, c, t) -> h, c
    hidden: int
    cells: Sequence[Sequence[str]] = (("",),)  # [layer][direction]: the `cell` that step gets
    start: Callable[[Tensors, str], Array | float] = lambda p, state: 0.0  # of "h", "c"
    prefix: str = ""
    h_absent_at_start: bool = False  # without a given state, step gets None for h at t = 0

    def run(
        self,
        x: Array,
        h0: Array | None = None,  # (layers * directions, N, H), layer by layer as in torch
        c0: Array | None = None,
        lengths: Sequence[int] | Array | None = None,
    ) -> tuple[Array, Array, Array]:
        """In float64: output (N, T, directions * H), h_n and c_n (layers * directions, N, H)."""
        p, own = to_float64(self.tensors, self.prefix), self.h_absent_at_start and h0 is None
        lengths = np.asarray([x.shape[1]] * len(x) if lengths is None else lengths)
        shape = (sum(map(len, self.cells)), len(x), self.hidden)
        h_n = np.broadcast_to(self.start(p, "h") if h0 is None else h0, shape).astype(float)
        c_n = np.broadcast_to(self.start(p, "c") if c0 is None else c0, shape).astype(float)
        sequence, n = x.astype(float), 0
        for layer in self.cells:
            outputs = []
            for backwards, cell in enumerate(layer):
                frames = flip(sequence, lengths) if backwards else sequence
                output = np.zeros((*x.shape[:2], self.hidden))
                for t in range(x.shape[1]):
                    before = None if own and t == 0 else h_n[n]
                    h, c = self.step(p, cell, frames[:, t], before, c_n[n], t)
                    running = (t < lengths)[:, None]  # past its length a stream holds its state
                    h_n[n], c_n[n] = np.where(running, h, h_n[n]), np.where(running, c, c_n[n])
                    output[:, t] = h_n[n]
                outputs.append(flip(output, lengths) if backwards else output)
                n += 1
            sequence = np.concatenate(outputs, axis=-1)
        return sequence, h_n, c_n


def to_float64(tensors: Tensors, prefix="") -> Tensors:
    own = {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}
    return {k: to_float64(v) if isinstance(v, dict) else np.float64(v) for k, v in own.items()}


def flip(x, lengths):
    """Each stream's own frames backwards; the padding after them stays where it is."""
    flipped = x.copy()
    for stream, length in enumerate(lengths):
        flipped[stream, :length] = x[stream, :length][::-1]
    return flipped


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def bn(v, t, mean, var, eps, gamma=1.0, beta=0.0):
    """Statistics (F,), or (S, F) with a row a step: past the last row, the last."""
    mean, var = np.atleast_2d(mean), np.atleast_2d(var)
    t = min(t, len(mean) - 1)
    return gamma * (v - mean[t]) / np.sqrt(var[t] + eps) + beta


class Draw:
    """Random float32 arrays, lively enough that a swap or an omission shows."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.x = self.rng.standard_normal

    def within(self, low, high, *shape):
        return self.rng.uniform(low, high, shape).astype(np.float32)

    weight = partialmethod(within, -0.6, 0.6)
    shift = partialmethod(within, -0.5, 0.5)  # means, betas, biases, initial states
    gamma = partialmethod(within, 0.3, 1.5)
    var = partialmethod(within, 0.05, 2)


def torch_norm(draw, key, F, steps, *, affine=True, tracked=False) -> Tensors:
    """A torch normalization's entries; `steps` None: one pair of statistics for all steps."""
    p: Tensors = {f"{key}.weight": draw.gamma(F), f"{key}.bias": draw.shift(F)} if affine else {}
    for suffix in [""] if steps is None else [f"_{t}" for t in range(steps)]:
        p[f"{key}.running_mean{suffix}"] = draw.shift(F)
        p[f"{key}.running_var{suffix}"] = draw.var(F)
    return p | ({f"{key}.num_batches_tracked": np.array(7)} if tracked else {})


def torch_bn(p, key, v, t):
    steps = sum(name.startswith(f"{key}.running_mean_") for name in p)
    suffix = f"_{min(t, steps - 1)}" if steps else ""
    mean, var = p[f"{key}.running_mean{suffix}"], p[f"{key}.running_var{suffix}"]
    return bn(v, t, mean, var, 1e-5, p.get(f"{key}.weight", 1.0), p.get(f"{key}.bias", 0.0))


def wrapped(source: Source, prefix="rnn.", classes=2) -> Source:
    """As a part of a user's model: every key under a prefix, a classifier beside them."""
    tensors = {prefix + key: value for key, value in source.tensors.items()}
    features = source.hidden * len(source.cells[-1])
    head = {"fc.weight": Draw(99).weight(classes, features), "fc.bias": Draw(98).shift(classes)}
    return replace(source, tensors=tensors | head, prefix=prefix)


def jihunchoi(
    seed, *, layers=2, input_size=3, hidden_size=4, steps=5, batch=3, time=9, outputs_first=False
) -> Source:  # fmt: skip
    """`steps` None: shared statistics. `outputs_first`: weights [4H, in] (the first of 2017)."""
    draw, H = Draw(seed), hidden_size
    p: Tensors = {}
    cells = [f"cell_{layer}" for layer in range(layers)]
    for k in cells:
        inputs = H if p else input_size
        p[f"{k}.weight_ih"] = draw.weight(*((4 * H, inputs) if outputs_first else (inputs, 4 * H)))
        p[f"{k}.weight_hh"] = draw.weight(*((4 * H, H) if outputs_first else (H, 4 * H)))
        p[f"{k}.bias"] = draw.shift(4 * H)
        for norm, F in [("bn_ih", 4 * H), ("bn_hh", 4 * H), ("bn_c", H)]:
            p |= torch_norm(draw, f"{k}.{norm}", F, steps)

    def step(p, k, x, h, c, t):
        w_ih, w_hh = p[f"{k}.weight_ih"], p[f"{k}.weight_hh"]
        wx = torch_bn(p, f"{k}.bn_ih", x @ (w_ih.T if outputs_first else w_ih), t)
        wh = torch_bn(p, f"{k}.bn_hh", h @ (w_hh.T if outputs_first else w_hh), t)
        f, i, o, g = np.split(wx + wh + p[f"{k}.bias"], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(torch_bn(p, f"{k}.bn_c", c, t)), c

    name = "jihunchoi" if steps else f"jihunchoi_2017{'_first' if outputs_first else ''}"
    return Source(name, p, draw.x((batch, time, input_size)), step, H, [[k] for k in cells])


def hellozgy(seed, *, directions=1, input_size=3, hidden_size=4, batch=3, time=9) -> Source:
    draw, H, cells = Draw(seed), hidden_size, ["lstm_f", "lstm_b"][:directions]
    p = {"h0": draw.shift(directions, 1, H), "c0": draw.shift(directions, 1, H)}
    for k in cells:
        p |= {f"{k}.weight_ih": draw.weight(input_size, 4 * H), f"{k}.bias": draw.shift(4 * H)}
        p[f"{k}.weight_hh"] = draw.weight(H, 4 * H)
        p |= torch_norm(draw, f"{k}.bn_ih", 4 * H, None, affine=False, tracked=True)
        p |= torch_norm(draw, f"{k}.bn_hh", 4 * H, None, affine=False, tracked=True)
        p |= torch_norm(draw, f"{k}.bn_c", H, None, tracked=True)

    def step(p, k, x, h, c, t):
        wx = torch_bn(p, f"{k}.bn_ih", x @ p[f"{k}.weight_ih"], t)
        wh = torch_bn(p, f"{k}.bn_hh", h @ p[f"{k}.weight_hh"], t)
        i, f, o, g = np.split(wx + wh + p[f"{k}.bias"], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(torch_bn(p, f"{k}.bn_c", c, t)), c

    x = draw.x((batch, time, input_size))
    return Source("hellozgy", p, x, step, H, [cells], lambda p, state: p[f"{state}0"])


def mrubio(seed, *, layers=1, input_size=3, hidden_size=4, steps=5, batch=3, time=9) -> Source:
    """The public code always has 1000 `steps`."""
    draw, H = Draw(seed), hidden_size
    p = {"h_0": np.zeros((H, batch), np.float32), "c_0": np.zeros((H, batch), np.float32)}
    for layer in range(layers):
        k = f"layers.{layer}"
        for way in ["", "_reverse"]:
            p[f"{k}.weight_ih{way}"] = draw.weight(4 * H, 2 * H if layer else input_size)
            p[f"{k}.weight_hh{way}"] = draw.weight(4 * H, H)
            p[f"{k}.bias{way}"] = draw.shift(4 * H, 1)
        for norm, F in [("0", 4 * H), ("1", 4 * H), ("2", H)]:
            p |= torch_norm(draw, f"{k}.batch_norms.{norm}", F, steps)

    def step(p, cell, x, h, c, t):
        k, _, way = cell.partition("|")  # both ways share one set of normalizations
        wh = torch_bn(p, f"{k}.batch_norms.0", h @ p[f"{k}.weight_hh{way}"].T, t)
        wx = torch_bn(p, f"{k}.batch_norms.1", x @ p[f"{k}.weight_ih{way}"].T, t)
        i, f, g, o = np.split(wh + wx + p[f"{k}.bias{way}"][:, 0], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(torch_bn(p, f"{k}.batch_norms.2", c, t)), c

    cells = [[f"layers.{layer}|", f"layers.{layer}|_reverse"] for layer in range(layers)]
    return Source("mrubio", p, draw.x((batch, time, input_size)), step, H, cells)


def houlu(seed, *, layers=1, input_size=3, hidden_size=4, steps=5, batch=3, time=9) -> Source:
    """`steps` None: shared statistics."""
    draw, H = Draw(seed), hidden_size
    p: Tensors = {}
    for layer in range(layers):
        k, inputs = f"rnns.{layer}.lstm_cell", H if layer else input_size
        p |= {f"rnns.{layer}.h0": draw.shift(H), f"rnns.{layer}.c0": draw.shift(H)}
        for copy in ["", "_full_precision"]:  # the second is left from training, meaningless
            p[f"{k}.weight_ih_l0{copy}"] = draw.weight(4 * H, inputs)
            p[f"{k}.weight_hh_l0{copy}"] = draw.weight(4 * H, H)
        p[f"{k}.bias_ih_l0"] = draw.shift(4 * H)
        p |= torch_norm(draw, f"{k}.batchnorm_ih", 4 * H, steps, tracked=not steps)
        p |= torch_norm(draw, f"{k}.batchnorm_hh", 4 * H, steps, tracked=not steps)
        p |= torch_norm(draw, f"{k}.batchnorm_c", H, steps) if steps else {}
    p |= {"decoder.weight": draw.weight(6, H), "decoder.bias": draw.shift(6)}

    def step(container, k, x, h, c, t):
        p = container["model"]
        wx = torch_bn(p, f"{k}.batchnorm_ih", x @ p[f"{k}.weight_ih_l0"].T, t)
        wh = torch_bn(p, f"{k}.batchnorm_hh", h @ p[f"{k}.weight_hh_l0"].T, t)
        i, f, g, o = np.split(wx + wh + p[f"{k}.bias_ih_l0"], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c  # batchnorm_c is stored, never applied

    def start(container, state):
        return np.stack([container["model"][f"rnns.{n}.{state}0"] for n in range(layers)])[:, None]

    x, cells = draw.x((batch, time, input_size)), [[f"rnns.{n}.lstm_cell"] for n in range(layers)]
    return Source("houlu", {"model": p, "epoch": 3}, x, step, H, cells, start)


def cooijmans(seed, *, input_size=3, hidden_size=4, steps=5, batch=3, time=9) -> Source:
    draw, H = Draw(seed), hidden_size
    p = {"Wx": draw.weight(input_size, 4 * H), "Wa": draw.weight(H, 4 * H)}
    p |= {"a_gammas": draw.gamma(4 * H), "b_gammas": draw.gamma(4 * H)}
    p |= {"ab_betas": draw.shift(4 * H), "c_gammas": draw.gamma(H), "c_betas": draw.shift(H)}
    p |= {"h0": draw.shift(H), "c0": draw.shift(H)}
    for path, F in [("a", 4 * H), ("b", 4 * H), ("c", H)]:
        p |= {f"{path}_mean": draw.shift(steps, F), f"{path}_var": draw.var(steps, F)}

    def step(p, _, x, h, c, t):
        a = bn(h @ p["Wa"], t, p["a_mean"], p["a_var"], 1e-5, p["a_gammas"])
        b = bn(x @ p["Wx"], t, p["b_mean"], p["b_var"], 1e-5, p["b_gammas"])
        g, f, i, o = np.split(a + b + p["ab_betas"], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        normal_c = bn(c, t, p["c_mean"], p["c_var"], 1e-5, p["c_gammas"], p["c_betas"])
        return sigmoid(o) * tanh(normal_c), c

    x = draw.x((batch, time, input_size))
    return Source("cooijmans", p, x, step, H, start=lambda p, state: p[f"{state}0"])


def tensorflow_norm(p, k, v, t, eps):
    stats, scale = (p[f"{k}/pop_mean"], p[f"{k}/pop_var"]), p[f"{k}/scale"]
    return bn(v, t, *stats, eps, scale, p.get(f"{k}/offset", 0.0))


def seqsleepnet(seed, *, input_size=3, hidden_size=4, steps=5, batch=3, time=9) -> Source:
    draw, H = Draw(seed), hidden_size
    p = {"W_xh": draw.weight(input_size, 4 * H), "W_hh": draw.weight(H, 4 * H)}
    p |= {"hh/offset": draw.shift(4 * H), "c/offset": draw.shift(H)}
    for k, F in [("xh", 4 * H), ("hh", 4 * H), ("c", H)]:
        p |= {f"{k}/pop_mean": draw.shift(steps, F), f"{k}/pop_var": draw.var(steps, F)}
        p |= {f"{k}/scale": draw.gamma(F)}

    def step(p, _, x, h, c, t):
        wx = tensorflow_norm(p, "xh", x @ p["W_xh"], t, 1e-5)
        wh = tensorflow_norm(p, "hh", h @ p["W_hh"], t, 1e-5)
        f, i, o, g = np.split(wx + wh, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(tensorflow_norm(p, "c", c, t, 1e-5)), c

    return Source("seqsleepnet", p, draw.x((batch, time, input_size)), step, H)


def olavhn(seed, *, input_size=3, hidden_size=4, batch=3, time=9) -> Source:
    draw, H = Draw(seed), hidden_size
    p = {"W_xh": draw.weight(input_size, 4 * H), "W_hh": draw.weight(H, 4 * H)}
    p["bias"] = draw.shift(4 * H)
    for k, F in [("xh", 4 * H), ("hh", 4 * H), ("c", H)]:
        p |= {f"{k}/scale": draw.gamma(F), f"{k}/offset": draw.shift(F)}
        p |= {f"{k}/pop_mean": draw.shift(F), f"{k}/pop_var": draw.var(F)}

    def step(p, _, x, h, c, t):
        wx = tensorflow_norm(p, "xh", x @ p["W_xh"], t, 1e-3)
        wh = tensorflow_norm(p, "hh", h @ p["W_hh"], t, 1e-3)
        i, g, f, o = np.split(wx + wh + p["bias"], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(tensorflow_norm(p, "c", c, t, 1e-3)), c

    return Source("olavhn", p, draw.x((batch, time, input_size)), step, H)


def sonnet(
    seed, *, paths="h", rows=(), input_size=3, hidden_size=4, batch=3, time=9
) -> Source:  # fmt: skip
    """`paths`: the normalized ones of "hxc". `rows`: statistics (F,), or before F (1,) or (S,)."""
    draw, H = Draw(seed), hidden_size
    p = {"w_gates_h": draw.weight(H, 4 * H), "w_gates_x": draw.weight(input_size, 4 * H)}
    p |= {"b_gates": draw.shift(4 * H)} | ({"beta_c": draw.shift(H)} if "c" in paths else {})
    for path in paths:
        F = H if path == "c" else 4 * H
        p[f"gamma_{path}"] = draw.gamma(F)
        p[f"batch_norm_{path}/moving_mean"] = draw.shift(*rows, F)
        p[f"batch_norm_{path}/moving_variance"] = draw.var(*rows, F)

    def norm(p, path, v, t):
        if f"gamma_{path}" not in p:
            return v
        mean, var = (p[f"batch_norm_{path}/moving_{kind}"] for kind in ["mean", "variance"])
        return bn(v, t, mean, var, 1e-3, p[f"gamma_{path}"], p.get(f"beta_{path}", 0.0))

    def step(p, _, x, h, c, t):
        gates = norm(p, "h", h @ p["w_gates_h"], t) + norm(p, "x", x @ p["w_gates_x"], t)
        i, g, f, o = np.split(gates + p["b_gates"], 4, axis=1)
        c = sigmoid(f + 1) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(norm(p, "c", c, t)), c

    return Source("sonnet", p, draw.x((batch, time, input_size)), step, H)


def batchnorm_lstm_pypi(
    seed, *, layers=2, input_size=3, hidden_size=4, batch=3, time=9
) -> Source:  # fmt: skip
    draw, H = Draw(seed), hidden_size
    p: Tensors = {}
    cells = [str(layer) for layer in range(1, layers + 1)]
    for n in cells:
        p[f"W{n}"] = draw.weight(H if p else input_size, 4 * H)
        p |= {f"U{n}": draw.weight(H, 4 * H), f"b{n}": draw.shift(4 * H)}
        for k, F in [(f"x{n}", 4 * H), (f"h{n}", 4 * H), (f"c{n}", H)]:
            p |= {f"gamma_{k}": draw.gamma(F), f"beta_{k}": draw.shift(F)}
            p |= {f"running_mean_{k}": draw.shift(F), f"running_var_{k}": draw.var(F)}
    p |= {f"W{layers + 1}": draw.weight(H, 2), f"b{layers + 1}": draw.shift(2)}  # the head: no U

    def norm(p, k, v, t):
        stats, gamma = (p[f"running_mean_{k}"], p[f"running_var_{k}"]), p[f"gamma_{k}"]
        return bn(v, t, *stats, 1e-5, gamma, p[f"beta_{k}"])

    def step(p, n, x, h, c, t):
        wx, wh = norm(p, f"x{n}", x @ p[f"W{n}"], t), norm(p, f"h{n}", h @ p[f"U{n}"], t)
        g, i, f, o = np.split(wx + wh + p[f"b{n}"], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(norm(p, f"c{n}", c, t)), c

    x = draw.x((batch, time, input_size))
    return Source("batchnorm_lstm_pypi", p, x, step, H, [[n] for n in cells])


def musyoku(seed, *, input_size=3, hidden_size=4, batch=3, time=9) -> Source:
    draw, H = Draw(seed), hidden_size
    p = {"wx/W": draw.weight(4 * H, input_size), "wh/W": draw.weight(4 * H, H)}
    p |= {"bias/b": draw.shift(4 * H), "bnc/beta": draw.shift(H)}
    for k, F in [("bnx", 4 * H), ("bnh", 4 * H), ("bnc", H)]:
        p |= {f"{k}/gamma": draw.gamma(F), f"{k}/N": np.array(7)}
        p |= {f"{k}/avg_mean": draw.shift(F), f"{k}/avg_var": draw.var(F)}

    def norm(p, k, v):  # the source's eps is in avg_var already
        return p[f"{k}/gamma"] * (v - p[f"{k}/avg_mean"]) / np.sqrt(p[f"{k}/avg_var"])

    def step(p, _, x, h, c, t):
        gates = norm(p, "bnx", x @ p["wx/W"].T) + p["bias/b"]
        if h is not None:  # without a state the path is left out: 0, not BN(0)
            gates += norm(p, "bnh", h @ p["wh/W"].T)
        g, i = gates[:, 0::4], gates[:, 1::4]  # row 4u + j is gate j of unit u
        f, o = gates[:, 2::4], gates[:, 3::4]
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(norm(p, "bnc", c) + p["bnc/beta"]), c

    x = draw.x((batch, time, input_size))
    return Source("musyoku", p, x, step, H, h_absent_at_start=True)


SOURCES: dict[str, Callable[[int], Source]] = {
    "jihunchoi": jihunchoi,
    "jihunchoi_one_layer": partial(jihunchoi, layers=1),
    "jihunchoi_12_steps": partial(jihunchoi, steps=12, time=15),  # "_10" sorts before "_2"
    "jihunchoi_wrapped": lambda seed: wrapped(jihunchoi(seed)),
    "jihunchoi_2017": partial(jihunchoi, steps=None),
    "jihunchoi_2017_first": partial(jihunchoi, steps=None, outputs_first=True),
    "hellozgy": hellozgy,
    "hellozgy_bidirectional": partial(hellozgy, directions=2),
    "mrubio": mrubio,
    "mrubio_two_layers": partial(mrubio, layers=2),
    "mrubio_12_steps": partial(mrubio, steps=12, time=15),
    "houlu_per_step": houlu,
    "houlu_shared": partial(houlu, steps=None),
    "houlu_two_layers": partial(houlu, layers=2),
    "cooijmans": cooijmans,
    "seqsleepnet": seqsleepnet,
    "olavhn": olavhn,
    "sonnet_h": sonnet,
    "sonnet_x": partial(sonnet, paths="x", rows=(1,)),
    "sonnet_hx": partial(sonnet, paths="hx"),
    "sonnet_hc_per_step": partial(sonnet, paths="hc", rows=(5,)),
    "sonnet_all": partial(sonnet, paths="hxc", rows=(1,)),
    "sonnet_all_per_step": partial(sonnet, paths="hxc", rows=(5,)),
    "batchnorm_lstm_pypi": batchnorm_lstm_pypi,
    "batchnorm_lstm_pypi_one_layer": partial(batchnorm_lstm_pypi, layers=1),
    "musyoku": musyoku,
}
