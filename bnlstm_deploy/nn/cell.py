"""One timestep of a batch-normalized LSTM."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.nn.norm import StepwiseBatchNorm
from bnlstm_deploy.normalizations import PATHS, NormPath

PAPER_BETA: tuple[NormPath, ...] = ("cell",)
"""The normalizations with a shift in the paper: the bias already shifts the gates."""


class Norms(NamedTuple):
    """The normalizations of one layer and direction; None where there is none."""

    input: StepwiseBatchNorm | None
    hidden: StepwiseBatchNorm | None
    cell: StepwiseBatchNorm | None


@dataclass(frozen=True)
class NormSettings:
    """How the normalizations of every layer and direction are built.

    The fields are the arguments of BNLSTM and documented there.

    Raises:
        InputError: A path that is not one of the three, or a number out of range.
    """

    max_length: int
    normalize: Collection[NormPath] = PATHS
    beta: Collection[NormPath] = PAPER_BETA
    shared_statistics: Collection[NormPath] = ()
    affine_per_step: Collection[NormPath] = ()
    eps: float | Mapping[NormPath, float] = 1e-5
    momentum: float | None = 0.3
    gamma_init: float = 0.1

    def __post_init__(self) -> None:
        check_size("max_length", self.max_length)
        for name in ("normalize", "beta", "shared_statistics", "affine_per_step"):
            paths = ordered_paths(name, getattr(self, name))
            object.__setattr__(self, name, tuple(p for p in paths if p in self.normalize))
        eps = self.eps
        if isinstance(eps, Mapping):
            if set(eps) != set(PATHS):
                raise InputError(f"eps is {dict(eps)}; pass a number, or one for each of {PATHS}")
            object.__setattr__(self, "eps", {path: eps[path] for path in PATHS})
        values = eps.values() if isinstance(eps, Mapping) else [eps]
        if not all(0 <= value <= 1 for value in values):
            raise InputError(f"eps is {eps}; pass numbers from 0 to 1")

    def make(
        self, hidden_size: int, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> Norms:
        """Build the normalizations of one layer and direction."""

        def make(path: NormPath) -> StepwiseBatchNorm | None:
            if path not in self.normalize:
                return None
            return StepwiseBatchNorm(
                hidden_size if path == "cell" else 4 * hidden_size,
                1 if path in self.shared_statistics else self.max_length,
                eps=self.eps[path] if isinstance(self.eps, Mapping) else self.eps,
                momentum=self.momentum,
                beta=path in self.beta,
                gamma_init=self.gamma_init,
                affine_per_step=path in self.affine_per_step,
                device=device,
                dtype=dtype,
            )

        return Norms(make("input"), make("hidden"), make("cell"))


def check_size(name: str, size: int) -> None:
    """Raise InputError unless `size` is an integer of at least 1."""
    if not isinstance(size, int) or size < 1:
        raise InputError(f"{name} is {size!r}; pass an integer of at least 1")


def ordered_paths(name: str, paths: Collection[str]) -> tuple[NormPath, ...]:
    """Return `paths` without repeats in the order input, hidden, cell.

    Raises:
        InputError: A path that is not one of the three.
    """
    unknown = set(paths) - set(PATHS)
    if unknown or isinstance(paths, str):
        raise InputError(f"{name} is {paths!r}; pass a subset of {PATHS}")
    return tuple(path for path in PATHS if path in paths)


def lstm_step(
    input_product: Tensor,
    state: tuple[Tensor, Tensor],
    weight_hh: Tensor,
    bias: Tensor | None,
    norms: Norms,
    step: int | Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute equations (6) to (8) of Cooijmans et al. 2016 for one timestep.

        i, f, g, o = BN(W_h h) + BN(W_x x) + b
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(BN(c'))

    Args:
        input_product: (N, 4H), `W_x x` before its normalization.
        state: h and c, each (N, H).
        weight_hh: (4H, H), `W_h`.
        bias: (4H,), b; or None.
        norms: The normalizations in use.
        step: The timestep of the stream, or an int64 tensor (N,) of timesteps.

    Returns:
        h' and c', each (N, H).
    """
    h, c = state
    hidden_product = F.linear(h, weight_hh)
    if norms.input is not None:
        input_product = norms.input(input_product, step)
    if norms.hidden is not None:
        hidden_product = norms.hidden(hidden_product, step)
    gates = input_product + hidden_product
    if bias is not None:
        gates = gates + bias
    i, f, g, o = gates.chunk(4, dim=1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    cell = c if norms.cell is None else norms.cell(c, step)
    return o.sigmoid() * cell.tanh(), c


class BNLSTMCell(nn.Module):
    """A batch-normalized LSTM cell: `torch.nn.LSTMCell` with normalization at each timestep.

    The equations are those of `lstm_step`; gates are in torch's order i, f, g, o. `bias_ih` and
    `bias_hh` are both added after the normalizations (their sum is the paper's b).

    Args:
        input_size: D.
        hidden_size: H.
        bias: Whether to learn `bias_ih` and `bias_hh`.
        max_length: S, the number of timesteps with statistics of their own.
        normalize: Which products are normalized, any subset of `("input", "hidden", "cell")`.
        beta: Which of the normalizations learn a shift. The paper's choice is the cell's alone,
            since b already shifts the gates.
        eps: Added to each variance.
        momentum: Weight of a new minibatch in the running statistics; None averages all alike.
        gamma_init: Initial value of every gamma.
        device: As in `torch.nn.LSTMCell`.
        dtype: As in `torch.nn.LSTMCell`.

    Attributes:
        weight_ih: (4H, D).
        weight_hh: (4H, H).
        bias_ih: (4H,), or None.
        bias_hh: (4H,), or None.
        input_norm: Normalization of the input product (N, 4H), or None.
        hidden_norm: Normalization of the hidden product (N, 4H), or None.
        cell_norm: Normalization of the cell state (N, H) before the output's tanh, or None.
    """

    bias_ih: Tensor
    bias_hh: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        max_length: int,
        normalize: Collection[NormPath] = PATHS,
        beta: Collection[NormPath] = PAPER_BETA,
        eps: float = 1e-5,
        momentum: float | None = 0.3,
        gamma_init: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_size("input_size", input_size)
        check_size("hidden_size", hidden_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.weight_ih = nn.Parameter(
            torch.empty(4 * hidden_size, input_size, device=device, dtype=dtype)
        )
        self.weight_hh = nn.Parameter(self.weight_ih.new_empty(4 * hidden_size, hidden_size))
        for name in ("bias_ih", "bias_hh"):
            parameter = nn.Parameter(self.weight_ih.new_empty(4 * hidden_size)) if bias else None
            self.register_parameter(name, parameter)
        settings = NormSettings(
            max_length, normalize, beta, eps=eps, momentum=momentum, gamma_init=gamma_init
        )
        norms = settings.make(hidden_size, device, dtype)
        self.input_norm, self.hidden_norm, self.cell_norm = norms
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize weights and biases as `torch.nn.LSTMCell` does, and the normalizations."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)
        for norm in (self.input_norm, self.hidden_norm, self.cell_norm):
            if norm is not None:
                norm.reset_parameters()

    def forward(
        self,
        input: Tensor,
        state: tuple[Tensor, Tensor] | None = None,
        *,
        step: int | Tensor = 0,
    ) -> tuple[Tensor, Tensor]:
        """Advance N streams by one timestep.

        Args:
            input: (N, D).
            state: h and c, each (N, H); zeros by default.
            step: Timesteps that the streams consumed before: an int, or an int64 tensor (N,).

        Returns:
            h and c after the step, each (N, H).

        Raises:
            InputError: A wrong rank or size, or a negative step.
        """
        if input.ndim != 2 or input.shape[1] != self.input_size:
            raise InputError(
                f"input has shape {tuple(input.shape)}; pass (N, {self.input_size}), "
                "one timestep of N streams"
            )
        if isinstance(step, int) and step < 0:
            raise InputError(f"step is {step}; pass the number of timesteps consumed before, >= 0")
        if state is None:
            zeros = input.new_zeros(input.shape[0], self.hidden_size)
            state = (zeros, zeros)
        bias = self.bias_ih + self.bias_hh if self.bias else None
        norms = Norms(self.input_norm, self.hidden_norm, self.cell_norm)
        return lstm_step(F.linear(input, self.weight_ih), state, self.weight_hh, bias, norms, step)
