"""The equations of the paper, written stream by stream in numpy, apart from the package's code.

Cooijmans et al. 2016, equations (6) to (8), with population statistics; one stream at a time and
only its valid timesteps, so that there is nothing to mask.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.nn import BNLSTM

Array = NDArray[np.float64]


def run(
    model: BNLSTM,
    x: Array,
    h: Array,
    c: Array,
    lengths: list[int],
    steps: list[int],
) -> tuple[Array, Array, Array]:
    """Compute output (T, N, directions * H), h_n and c_n (rows, N, H) for x (T, N, D)."""
    values = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    directions = ("", "_reverse") if model.bidirectional else ("",)
    hidden = model.hidden_size
    time, batch, _ = x.shape
    h_n, c_n = h.copy(), c.copy()
    for layer in range(model.num_layers):
        output = np.zeros((time, batch, hidden * len(directions)))
        for d, direction in enumerate(directions):
            row = layer * len(directions) + d
            suffix = f"_l{layer}{direction}"
            for n in range(batch):
                order = range(lengths[n])
                for count, t in enumerate(reversed(order) if direction else order):
                    h_n[row, n], c_n[row, n] = _step(
                        values,
                        suffix,
                        x[t, n],
                        h_n[row, n],
                        c_n[row, n],
                        steps[n] + count,
                        model.eps,
                    )
                    output[t, n, d * hidden : (d + 1) * hidden] = h_n[row, n]
        x = output
    return x, h_n, c_n


def _step(
    values: dict[str, Array], suffix: str, x: Array, h: Array, c: Array, step: int, eps: Any
) -> tuple[Array, Array]:
    def bn(path: str, v: Array) -> Array:
        prefix = f"{path}_norm{suffix}."
        if prefix + "weight" not in values:
            return v
        means, variances = values[prefix + "running_mean"], values[prefix + "running_var"]
        k = min(step, len(means) - 1)
        own_eps = eps[path] if isinstance(eps, dict) else eps
        normalized = (v - means[k]) / np.sqrt(variances[k] + own_eps)
        gamma, beta = (values.get(prefix + name, np.zeros(1)) for name in ("weight", "bias"))
        scaled: Array = (gamma[k] if gamma.ndim == 2 else gamma) * normalized
        return scaled + (beta[k] if beta.ndim == 2 else beta)

    gates = bn("input", values["weight_ih" + suffix] @ x)
    gates = gates + bn("hidden", values["weight_hh" + suffix] @ h)
    if "bias_ih" + suffix in values:
        gates = gates + values["bias_ih" + suffix] + values["bias_hh" + suffix]
    i, f, g, o = np.split(gates, 4)
    with np.errstate(over="ignore"):  # 1 / inf is the exact limit
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
    c = f * c + i * np.tanh(g)
    return o * np.tanh(bn("cell", c)), c
