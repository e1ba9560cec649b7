"""How the gradient flows back through time, measured and predicted (docs/gradient_flow.md)."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.nn.cell import lstm_step
from bnlstm_deploy.normalizations import NormPath

GAMMAS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
TIME, STREAMS, HIDDEN, FEATURES = 100, 100, 100, 1
"""T, N, H and D of the measurement: the paper's H, and as many streams."""
EARLY, SETTLED = 10, 50
"""Timesteps: the gradient's rate is that between them, and after the second the states'
distribution is taken not to change any more."""

Array = npt.NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(80)


@dataclass(frozen=True)
class Factors:
    """Mean squared gains of one timestep: (1/H) E ||J||_F^2 of each block of its Jacobian."""

    h_h: float
    """Of dh_t / dh_{t-1} at a given c_{t-1}; the others likewise."""
    h_c: float
    c_h: float
    c_c: float


@dataclass(frozen=True)
class Prediction:
    """What the theory says about one setting."""

    factors: Factors
    rate: float
    """By which the gradient's norm is multiplied at each timestep, after many: the largest
    eigenvalue of the mean Jacobian. The recurrent weights are the same at each timestep, so that
    what the mean gains of g's gate and of the cell do adds up, and what varies from stream to
    stream averages out."""


@dataclass(frozen=True)
class Flow:
    """One setting, measured and predicted."""

    normalize: tuple[NormPath, ...]
    gamma: float
    seed: int
    norms: list[float]
    """||dL/dh_t|| for t = 0 .. T - 1, where L is a random projection of the last h."""
    measured: Factors
    rate: float
    """By which the norm is multiplied at each timestep back from SETTLED to EARLY."""
    predicted: Prediction

    def line(self) -> dict[str, object]:
        """Return it for a results file, in four digits."""
        return dict(rounded(asdict(self)))


def rounded(values: dict[str, object]) -> Iterator[tuple[str, object]]:
    """Yield them with four significant digits."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield name, dict(rounded(value))
        elif isinstance(value, list):
            yield name, [float(f"{number:.4g}") for number in value]
        else:
            yield name, float(f"{value:.4g}") if isinstance(value, float) else value


def gaussian(function: Callable[[Array], Array], variance: float) -> float:
    """Return E[function(x)] for x of mean 0 and that variance, by Gauss-Hermite quadrature."""
    values = function(np.sqrt(variance) * _NODES)
    return float((values * _WEIGHTS).sum() / _WEIGHTS.sum())


def squared_means(function: Callable[[Array], Array], within: float, between: float) -> float:
    """Return the mean over units of the square of the mean over streams.

    That is E_b[E_z[function(b + z)]^2], with z of the variance `within` units, over streams, and b
    of the variance `between` units.
    """
    values = function(np.sqrt(within) * _NODES + np.sqrt(between) * _NODES[:, None])
    means = (values * _WEIGHTS).sum(1) / _WEIGHTS.sum()
    return float((means**2 * _WEIGHTS).sum() / _WEIGHTS.sum())


def _sigmoid(x: Array) -> Array:
    y: Array = 1 / (1 + np.exp(-x))
    return y


def _tanh(x: Array) -> Array:
    y: Array = np.tanh(x)
    return y


def _tanh_slope(x: Array) -> Array:
    return 1 - _tanh(x) ** 2


def predict(
    normalize: Collection[NormPath],
    gamma: float,
    hidden_size: int = HIDDEN,
    input_square: float = 1,
) -> Prediction:
    """Return the gains at initialization, for wide layers and many streams.

    Args:
        normalize: Which products are normalized.
        gamma: Of all normalizations.
        hidden_size: H; weights and biases are uniform in +-1/sqrt(H).
        input_square: Sum over features of E[x^2].
    """
    weight = 1 / (3 * hidden_size)  # variance of one weight
    row = weight * hidden_size  # squared length of a row of hidden weights
    h_var, h_mean = 0.01, 0.0  # variance of h over streams, and mean square of its means
    for _ in range(200):
        within = gamma**2 if "input" in normalize else weight * input_square
        within += gamma**2 if "hidden" in normalize else row * h_var
        between = 2 * weight + (0 if "hidden" in normalize else row * h_mean)
        v = within + between
        square, s_mean = (
            gaussian(lambda x: _sigmoid(x) ** 2, v),
            squared_means(_sigmoid, within, between),
        )
        g_square, g_mean = (
            gaussian(lambda x: _tanh(x) ** 2, v),
            squared_means(_tanh, within, between),
        )
        c_mean = 4 * s_mean * g_mean  # c's mean is i g / (1 - f), with f = 1/2
        c_var = square * g_square - s_mean * g_mean + c_mean * (square - s_mean)
        c_var /= 1 - square
        u_within, u_between = (gamma**2, 0.0) if "cell" in normalize else (c_var, c_mean)
        u = u_within + u_between
        u_square = gaussian(lambda x: _tanh(x) ** 2, u)
        h_mean = s_mean * squared_means(_tanh, u_within, u_between)
        h_var = square * u_square - h_mean
    slope = gaussian(lambda x: (_sigmoid(x) * (1 - _sigmoid(x))) ** 2, v)
    # dc/dgate, squared and summed over i, f, g; then through o * tanh(s c); then o's own
    c_gates = slope * (g_square + c_var + c_mean)
    c_gates += square * gaussian(lambda x: _tanh_slope(x) ** 2, v)
    scale = gamma**2 / c_var if "cell" in normalize else 1.0
    out = square * scale * gaussian(lambda x: _tanh_slope(x) ** 2, u)
    gain = gamma**2 / h_var if "hidden" in normalize else row
    factors = Factors(
        h_h=gain * (out * c_gates + slope * u_square),
        h_c=out * square, c_h=gain * c_gates, c_c=square,
    )  # fmt: skip
    # Mean gains: sigmoids are 1/2 on average; the gates i, f and o have factors of mean 0
    through = 0.5 * np.sqrt(scale) * gaussian(_tanh_slope, u)
    c_h = 0.5 * np.sqrt(gain) * gaussian(_tanh_slope, v)
    mean = np.array([[through * c_h, through * 0.5], [c_h, 0.5]])
    squares = np.array([[factors.h_h, factors.h_c], [factors.c_h, factors.c_c]])
    coherent, incoherent = (np.abs(np.linalg.eigvals(gains)).max() for gains in (mean, squares))
    return Prediction(factors, float(max(coherent, np.sqrt(incoherent))))


def measure(normalize: Collection[NormPath], gamma: float, seed: int) -> Flow:
    """Measure a new model on random sequences, and predict it."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = BNLSTM(
        FEATURES, HIDDEN, max_length=1, normalize=normalize, gamma_init=gamma, dtype=torch.float64
    ).train()
    x = torch.randn(TIME, STREAMS, FEATURES, dtype=torch.float64)

    weights = dict(model.named_parameters())
    bias = weights["bias_ih_l0"] + weights["bias_hh_l0"]

    def step(t: int, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        product = F.linear(x[t], weights["weight_ih_l0"])
        return lstm_step(product, (h, c), weights["weight_hh_l0"], bias, model.norms("_l0"), t)

    h = c = torch.zeros(STREAMS, HIDDEN, dtype=torch.float64, requires_grad=True)
    states = []
    for t in range(TIME):
        h, c = step(t, h, c)
        h.retain_grad()
        states.append((h, c))
    (h * torch.randn_like(h)).sum().backward()  # type: ignore[no-untyped-call]
    norms = [float(h.grad.norm()) for h, _ in states if h.grad is not None]

    total = np.zeros((2, 2))
    probes = range(SETTLED, TIME, 10)
    for t in probes:
        before = [state.detach().requires_grad_() for state in states[t - 1]]
        for row, after in enumerate(step(t, *before)):
            probe = torch.randn_like(after)
            gradients = torch.autograd.grad((after * probe).sum(), before, retain_graph=True)
            total[row] += [float(gradient.square().mean()) for gradient in gradients]
    measured = Factors(*(total / len(probes)).ravel().tolist())
    predicted = predict(normalize, gamma, input_square=FEATURES)
    rate = (norms[EARLY] / norms[SETTLED]) ** (1 / (SETTLED - EARLY))
    return Flow(tuple(normalize), gamma, seed, norms, measured, rate, predicted)


def flows(seeds: int, gammas: Sequence[float] = GAMMAS) -> Iterator[Flow]:
    """Measure every subset at every gamma; the LSTM, which has none, at one."""
    from tools.study.models import subsets  # noqa: PLC0415  # which imports what flows do not need

    for seed in range(seeds):
        for normalize in subsets():
            for gamma in gammas if normalize else gammas[:1]:
                yield measure(normalize, gamma, seed)
