"""A whole sequence in training as one operator of autograd, forward and backward written out.

A graph of autograd's own has some forty nodes a timestep, each with its tensors. Here a timestep is
a dozen calls forward and twenty backward, and keeps what its derivative needs and no more. The
input's products are computed timestep by timestep, too: those of all would leave the CPU's cache
before they are read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from bnlstm_deploy.nn.cell import Norms
from bnlstm_deploy.nn.norm import StepwiseBatchNorm

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_batch_norm_backward = torch.ops.aten.native_batch_norm_backward

State = tuple[Tensor, Tensor]
"""h and c, each (N, H)."""


class Weights(NamedTuple):
    """The parameters of one layer and direction beside those of its normalizations."""

    ih: Tensor | None
    """(4H, D); None where the sequence consists of products `W_x x` already."""
    hh: Tensor
    """(4H, H)."""
    bias: Tensor | None
    """(4H,)."""


@dataclass(frozen=True)
class _Segment:
    """The timesteps that one call of the operator covers, and what it needs besides tensors."""

    alive: Sequence[int]
    """The streams at each of its T timesteps, at least 2 and never more than the timestep before:
    those after the first so many have ended."""
    step: int
    """Timesteps that the streams consumed before it."""
    norms: Norms
    keep: bool
    """Whether the forward pass keeps what the backward pass needs; if not, that runs it again."""
    matmul_dtype: torch.dtype
    """Of the factors of products: autocast's, or that of the weights."""

    def rows(self, tensor: Tensor) -> list[Tensor]:
        """Return the row of each timestep of (R, F), whose last row stands for all later ones."""
        rows = tensor.unbind()
        return [rows[min(self.step + t, len(rows) - 1)] for t in range(len(self.alive))]


class _Kept(NamedTuple):
    """What the derivative of one timestep needs, for the n streams at it."""

    h: Tensor
    """(n, H), before the timestep; c likewise."""
    c: Tensor
    gates: Tensor
    """(n, 4H): i, f, g, o after their sigmoid or tanh."""
    cell: Tensor
    """(n, H), c after the timestep."""
    tanh: Tensor
    """(n, H), of the normalized cell state."""


class _Path:
    """One normalization over the timesteps of a segment."""

    def __init__(
        self,
        segment: _Segment,
        norm: StepwiseBatchNorm,
        weight: Tensor,
        bias: Tensor | None,
        observer: Callable[[Tensor, int], None] | None,
    ) -> None:
        time = len(segment.alive)
        self.segment, self.norm, self.observer = segment, norm, observer
        self.weight, self.bias = weight, bias
        self.weights = segment.rows(weight)
        self.biases = [None] * time if bias is None else segment.rows(bias)
        self.mean = weight.new_zeros(time, weight.shape[1])
        self.var = torch.zeros_like(self.mean)
        self.means, self.variances = self.mean.unbind(), self.var.unbind()
        self.inverse_stds: list[Tensor] = []

    def forward(self, x: Tensor, t: int) -> Tensor:
        """Normalize the minibatch of timestep t."""
        if self.observer is not None:
            self.observer(x, min(self.segment.step + t, self.norm.max_length - 1))
        # momentum 1: the running statistics become those of the minibatch, the variance unbiased
        y, _, inverse_std = torch.native_batch_norm(
            x, self.weights[t], self.biases[t], self.means[t], self.variances[t],
            True, 1.0, self.norm.eps,
        )  # fmt: skip
        self.inverse_stds.append(inverse_std)
        return y

    def start_backward(self) -> None:
        """Set the gradients of gamma and beta to 0."""
        self.d_weight = torch.zeros_like(self.weight)
        self.d_weights = self.segment.rows(self.d_weight)
        self.d_bias = None if self.bias is None else torch.zeros_like(self.bias)
        self.d_biases = None if self.d_bias is None else self.segment.rows(self.d_bias)

    def backward(self, d_y: Tensor, x: Tensor, t: int) -> Tensor:
        """Return the gradient of the minibatch x; add to those of gamma and beta."""
        wanted = [True, True, self.d_biases is not None]
        gradients: tuple[Tensor, Tensor, Tensor] = _batch_norm_backward(
            d_y, x, self.weights[t], None, None, self.means[t], self.inverse_stds[t],
            True, self.norm.eps, wanted,
        )  # fmt: skip
        d_x, d_gamma, d_beta = gradients
        self.d_weights[t].add_(d_gamma)
        if self.d_biases is not None:
            self.d_biases[t].add_(d_beta)
        return d_x


def train_steps(
    sequence: Tensor,
    state: State,
    weights: Weights,
    norms: Norms,
    alive: Sequence[int],
    step: int,
    checkpoint_steps: int | None,
) -> tuple[Tensor, State]:
    """Do what `lstm_step` does at each timestep, in training, and update the running statistics.

    Gates and states have the weights' precision in autocast, too: a cell state that is rounded to
    bfloat16 at each timestep forgets what is added to it.

    Args:
        sequence: (T, N, D), or products (T, N, 4H); streams in the order of their lengths, the
            longest first.
        state: The initial h and c, each (N, H).
        weights: The parameters.
        norms: The normalizations in use, all in training.
        alive: The streams at each of the T timesteps, at least 2 and never rising.
        step: Timesteps that the streams consumed before.
        checkpoint_steps: Timesteps of a segment of which the backward pass finds the initial state
            alone, and computes the rest once more; None keeps all.

    Returns:
        The output (T, N, H), 0 where a stream has ended, and the final h and c, each (N, H).
    """
    affine: list[tuple[Tensor | None, Tensor | None]] = [
        (None, None) if norm is None else norm.gamma_and_beta() for norm in norms
    ]
    bias = weights.bias
    for path in (0, 1):  # b shifts the gates as a normalization's beta does, which costs nothing
        gamma, beta = affine[path]
        if gamma is not None and bias is not None:
            affine[path] = gamma, bias[None] if beta is None else beta + bias
            bias = None
    parameters = [tensor for pair in affine for tensor in pair]
    device = sequence.device.type
    dtype = weights.hh.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    outputs, stride = [], checkpoint_steps or len(sequence)
    h, c = state
    for start in range(0, len(sequence), stride):
        ends = slice(start, start + stride)
        keep = checkpoint_steps is None and torch.is_grad_enabled()
        segment = _Segment(alive[ends], step + start, norms, keep, dtype)
        output, h, c = _Recurrence.apply(  # type: ignore[no-untyped-call]
            segment, sequence[ends], h, c, weights.ih, weights.hh, bias, *parameters
        )
        outputs.append(output)
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0], (h, c)


class _Context(FunctionCtx):
    """What the forward pass leaves for the backward pass, beside tensors."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    segment: _Segment
    paths: list[_Path | None]
    kept: list[_Kept]


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        segment: _Segment,
        sequence: Tensor,
        h: Tensor,
        c: Tensor,
        *weights: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        paths = _paths(segment, weights, observe=True)
        output, final, kept = _forward(segment, sequence, (h, c), weights, paths, segment.keep)
        for path in paths:
            if path is not None:
                path.norm.follow(path.mean, path.var, segment.step)
        ctx.segment, ctx.paths, ctx.kept = segment, paths, kept
        ctx.save_for_backward(sequence, h, c, *weights)  # type: ignore[arg-type]  # None is saved, too
        return output, *final

    @staticmethod
    @once_differentiable
    def backward(
        ctx: _Context, d_output: Tensor, d_h: Tensor, d_c: Tensor
    ) -> tuple[Tensor | None, ...]:
        sequence, h, c, *weights = ctx.saved_tensors
        segment, paths, kept = ctx.segment, ctx.paths, ctx.kept
        if not kept:
            paths = _paths(segment, weights, observe=False)
            *_, kept = _forward(segment, sequence, (h, c), weights, paths, keep=True)
        for path in paths:
            if path is not None:
                path.start_backward()
        d_state = (d_h.clone(), d_c.clone())
        d_sequence = torch.zeros_like(sequence) if ctx.needs_input_grad[1] else None
        d_weights = _backward(
            segment, sequence, weights, paths, kept, d_output, d_state, d_sequence
        )
        gradients = (
            tensor
            for path in paths
            for tensor in ((None, None) if path is None else (path.d_weight, path.d_bias))
        )
        return None, d_sequence, *d_state, *d_weights, *gradients


def _paths(
    segment: _Segment, weights: Sequence[Tensor | None], *, observe: bool
) -> list[_Path | None]:
    """Return the normalizations; gammas and betas are the last six of the `weights`."""
    affine = zip(weights[-6::2], weights[-5::2], strict=True)
    return [
        None
        if norm is None or weight is None
        else _Path(segment, norm, weight, bias, norm.observer if observe else None)
        for norm, (weight, bias) in zip(segment.norms, affine, strict=True)
    ]


def _forward(
    segment: _Segment,
    sequence: Tensor,
    state: State,
    weights: Sequence[Tensor | None],
    paths: Sequence[_Path | None],
    keep: bool,
) -> tuple[Tensor, State, list[_Kept]]:
    """Return the output (T, N, H), the final state, and what is kept of each timestep."""
    of_input, of_hidden, of_cell = paths
    weight_ih, weight_hh, bias = weights[:3]
    assert weight_hh is not None
    size, dtype = weight_hh.shape[1], segment.matmul_dtype
    h, c = state
    final_h, final_c = h.clone(), c.clone()
    w_x = None if weight_ih is None else weight_ih.to(dtype).t()
    w_h = weight_hh.to(dtype).t().contiguous()
    output = h.new_zeros(len(sequence), len(h), size)
    kept = []
    steps = zip(segment.alive, sequence.unbind(), output.unbind(), strict=True)
    for t, (n, x, y) in enumerate(steps):
        if n < len(h):
            final_h[n : len(h)], final_c[n : len(h)] = h[n:], c[n:]
            h, c = h[:n], c[:n]
        gates = torch.mm(h.to(dtype), w_h).to(c.dtype)
        product = (x[:n] if w_x is None else x[:n].to(dtype) @ w_x).to(c.dtype)
        if of_hidden is not None:
            gates = of_hidden.forward(gates, t)
        if of_input is not None:
            product = of_input.forward(product, t)
        gates.add_(product)
        if bias is not None:
            gates.add_(bias)
        i, f, g, o = gates.chunk(4, 1)
        gates[:, : 2 * size].sigmoid_()
        g.tanh_()
        o.sigmoid_()
        cell = torch.mul(f, c).addcmul_(i, g)
        tanh = (cell if of_cell is None else of_cell.forward(cell, t)).tanh()
        if keep:
            kept.append(_Kept(h, c, gates, cell, tanh))
        h, c = torch.mul(o, tanh), cell
        y[:n] = h
    final_h[: len(h)], final_c[: len(h)] = h, c
    return output, (final_h, final_c), kept


def _backward(
    segment: _Segment,
    sequence: Tensor,
    weights: Sequence[Tensor | None],
    paths: Sequence[_Path | None],
    kept: Sequence[_Kept],
    d_output: Tensor,
    d_state: State,
    d_sequence: Tensor | None,
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Return the gradients of `weights.ih`, `.hh` and `.bias`; those of `paths` are in them.

    Args:
        segment: What was run.
        sequence: As it was given.
        weights: As they were given.
        paths: The normalizations, their gradients 0.
        kept: Of each timestep.
        d_output: (T, N, H).
        d_state: The final state's gradient; at timestep t its first rows become those of the
            streams that still run, and the others wait for the timestep at which they ended. In
            the end the gradient of the initial state.
        d_sequence: Zeros for the gradient of `sequence`, if it is wanted.
    """
    of_input, of_hidden, of_cell = paths
    weight_ih, weight_hh, bias = weights[:3]
    assert weight_hh is not None
    size, dtype = weight_hh.shape[1], segment.matmul_dtype
    d_h, d_c = d_state
    w_h = weight_hh.to(dtype)
    w_h_t = w_h.t().contiguous()
    w_x = None if weight_ih is None else weight_ih.to(dtype)
    d_w_x = None if weight_ih is None else torch.zeros_like(weight_ih.t())
    d_w_h = torch.zeros_like(weight_hh.t(), memory_format=torch.contiguous_format)
    d_bias = None if bias is None else torch.zeros_like(bias)
    d_all = d_h.new_empty(len(d_h), 4 * size)
    d_gates, dh, dc = d_all[:0], d_h[:0], d_c[:0]
    inputs, d_outputs = sequence.unbind(), d_output.unbind()
    for t in range(len(kept) - 1, -1, -1):
        n, step = segment.alive[t], kept[t]
        i, f, g, o = step.gates.chunk(4, 1)
        if n > len(dh):
            dh, dc, d_gates = d_h[:n], d_c[:n], d_all[:n]
            d_i, d_f, d_g, d_o = d_gates.chunk(4, 1)
            d_i_and_f = d_gates[:, : 2 * size]
        dh.add_(d_outputs[t][:n])
        torch.mul(dh, step.tanh, out=d_o)
        dh.mul_(o)
        _tanh_backward(dh, step.tanh, grad_input=dh)
        dc.add_(dh if of_cell is None else of_cell.backward(dh, step.cell, t))
        torch.mul(dc, g, out=d_i)
        torch.mul(dc, step.c, out=d_f)
        torch.mul(dc, i, out=d_g)
        dc.mul_(f)
        _sigmoid_backward(d_i_and_f, step.gates[:, : 2 * size], grad_input=d_i_and_f)
        _sigmoid_backward(d_o, o, grad_input=d_o)
        _tanh_backward(d_g, g, grad_input=d_g)
        d_product = d_hidden = d_gates
        # A product is computed once more: that takes less time than memory for all timesteps'.
        if of_input is not None:
            x = inputs[t][:n]
            product = (x if w_x is None else x.to(dtype) @ w_x.t()).to(dc.dtype)
            d_product = of_input.backward(d_gates, product, t)
        if of_hidden is not None:
            product = torch.mm(step.h.to(dtype), w_h_t).to(dc.dtype)
            d_hidden = of_hidden.backward(d_gates, product, t)
        if d_bias is not None:
            d_bias.add_(d_gates.sum(0))
        d_product, d_hidden = d_product.to(dtype), d_hidden.to(dtype)
        _add_product(d_w_h, step.h, d_hidden)
        dh.copy_(d_hidden @ w_h)
        if d_w_x is not None:
            _add_product(d_w_x, inputs[t][:n], d_product)
        if d_sequence is not None:
            d_sequence[t, :n] = d_product if w_x is None else d_product @ w_x
    return None if d_w_x is None else d_w_x.t(), d_w_h.t(), d_bias


def _add_product(total: Tensor, x: Tensor, d_y: Tensor) -> None:
    """Add the gradient x' d_y of a product x W to that of W, which may be more precise than d_y."""
    if d_y.dtype == total.dtype:
        total.addmm_(x.t(), d_y)
    else:
        total.add_(x.to(d_y.dtype).t() @ d_y)
