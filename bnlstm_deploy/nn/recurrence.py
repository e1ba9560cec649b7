"""One layer and direction of a batch-normalized LSTM over whole sequences."""

import torch
from torch import Tensor
from torch.nn import functional as F

from bnlstm_deploy.nn.cell import Norms, lstm_step
from bnlstm_deploy.nn.norm import StepwiseBatchNorm
from bnlstm_deploy.nn.training import Weights, train_steps


def train_sequence(
    sequence: Tensor,
    state: tuple[Tensor, Tensor],
    weights: Weights,
    norms: Norms,
    lengths: list[int] | None,
    step: int,
    checkpoint_steps: int | None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run over (T, N, D), or products (T, N, 4H), in training: `train_steps` for any lengths."""
    order: list[int] = list(range(sequence.shape[1]))
    alive = [len(order)] * len(sequence)
    if lengths is not None:
        order.sort(key=lambda n: -lengths[n])
        alive = [sum(t < end for end in lengths) for t in range(len(sequence))]
        rows = torch.tensor(order, device=sequence.device)
        sequence, state = sequence[:, rows], (state[0][rows], state[1][rows])
    # One stream alone has no minibatch: it is normalized with the population statistics.
    several = sum(n > 1 for n in alive)
    outputs = []
    if several:
        parts = sequence[:several], state, weights, norms, alive[:several], step, checkpoint_steps
        output, state = train_steps(*parts)
        outputs.append(output)
    if several < len(sequence):
        rest = sequence[several:]
        products = rest if weights.ih is None else F.linear(rest, weights.ih)
        ends = None if lengths is None else [lengths[n] - several for n in order]
        output, state = run_sequence(
            products, state, weights.hh, weights.bias, norms, ends, step + several
        )
        outputs.append(output)
    output = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    if lengths is None:
        return output, state
    back = rows.argsort()
    return output[:, back], (state[0][back], state[1][back])


def run_sequence(
    products: Tensor,
    state: tuple[Tensor, Tensor],
    weight_hh: Tensor,
    bias: Tensor | None,
    norms: Norms,
    lengths: list[int] | None,
    step: int | Tensor,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Apply `lstm_step` timestep by timestep.

    Args:
        products: (T, N, 4H), `W_x x` before its normalization.
        state: The initial h and c, each (N, H).
        weight_hh: (4H, H).
        bias: (4H,), or None.
        norms: The normalizations in use.
        lengths: The valid timesteps of each stream; T for all by default. Past its length a
            stream's state is held and its output is 0.
        step: Timesteps that the streams consumed before: an int, or an int64 tensor (N,).

    Returns:
        The output (T, N, H), and the final h and c, each (N, H).
    """
    outputs = []
    for t, product in enumerate(products.unbind(0)):
        alive = None if lengths is None else [n for n, end in enumerate(lengths) if t < end]
        if alive is None or len(alive) == len(product):
            state = lstm_step(product, state, weight_hh, bias, norms, step + t)
            outputs.append(state[0])
            continue
        blank = torch.zeros_like(state[0])
        if alive:
            rows = torch.tensor(alive, device=product.device)
            old = (state[0][rows], state[1][rows])
            k = step[rows] + t if isinstance(step, Tensor) else step + t
            h, c = lstm_step(product[rows], old, weight_hh, bias, norms, k)
            state = (state[0].index_copy(0, rows, h), state[1].index_copy(0, rows, c))
            blank = blank.index_copy(0, rows, h)
        outputs.append(blank)
    return torch.stack(outputs), state


def normalize_sequences(
    norm: StepwiseBatchNorm, products: Tensor, lengths: list[int] | None
) -> Tensor:
    """Normalize (T, N, F) over all timesteps and streams at once, padding left out.

    Laurent et al. 2015, "Batch Normalized Recurrent Neural Networks", equation (10).
    """
    if lengths is None:
        normalized: Tensor = norm(products.flatten(0, 1), 0)
        return normalized.view_as(products)
    time = torch.arange(len(products), device=products.device)
    valid = time[:, None] < torch.tensor(lengths, device=products.device)
    return torch.zeros_like(products).masked_scatter(valid[..., None], norm(products[valid], 0))
