"""Population statistics re-estimated over a data set, with frozen weights."""

import copy
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.nn.bnlstm import BNLSTM
from bnlstm_deploy.nn.cell import check_size
from bnlstm_deploy.nn.norm import StepwiseBatchNorm, sum_over_processes

Batch = TypeVar("Batch")


@dataclass
class _Sums:
    """Sums over minibatches b of n_b rows, in float64, for each statistics row and feature."""

    count: Tensor
    """(S,), the sum of n_b."""
    freedom: Tensor
    """(S,), the sum of n_b - 1."""
    mean: Tensor
    """(S, F), the sum of n_b * mean_b."""
    deviation: Tensor
    """(S, F), the sum of squared deviations from mean_b."""

    def add(self, input: Tensor, k: int) -> None:
        """Add the minibatch `input` (n_b, F) to row k."""
        rows = input.double()
        mean = rows.mean(0)
        self.count[k] += len(rows)
        self.freedom[k] += len(rows) - 1
        self.mean[k] += len(rows) * mean
        self.deviation[k] += (rows - mean).square().sum(0)


@torch.no_grad()
def recalibrate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    limit: int | None = None,
    forward: Callable[[nn.Module, Batch], object] | None = None,
) -> None:
    """Replace the population statistics of every normalization in `model`, in place.

    The paper's method: with frozen weights each minibatch is normalized by its own statistics, as
    in training, and these are averaged over the data set,

        mean = sum_b n_b mean_b / sum_b n_b,    var = sum_b n_b var_b / sum_b (n_b - 1),

    with n_b the streams of minibatch b that are valid at the timestep and var_b their biased
    variance. Moving averages lag behind short trainings; this does not. Use minibatches of the
    size that the model was trained with, shuffled. Timesteps that no sequence reaches get the
    statistics of the last one before them that was. Dropout is off. If `batches` or the model
    raises, `model` is unchanged.

    Between epochs a few minibatches do, `limit=4` or so: then the curve that validation draws is
    that of the model, and not that of a moving average that runs after its weights.

    Args:
        model: Any module that holds BNLSTM layers or BNLSTMCells.
        batches: Minibatches: a tensor, the model's input; or a pair of input and lengths (N,).
            Leave labels out: nothing tells them from lengths.
        limit: Minibatches to use; all by default.
        forward: How to run `model` on a minibatch of another kind.

    Raises:
        InputError: No normalization in `model`, a limit below 1, or no minibatch of at least 2
            streams.
    """
    if limit is not None:
        check_size("limit", limit)
    worker = copy.deepcopy(model).eval()
    norms = {name: m for name, m in worker.named_modules() if isinstance(m, StepwiseBatchNorm)}
    if not norms:
        raise InputError("the model holds no normalization to recalibrate")
    sums = {name: _new_sums(norm) for name, norm in norms.items()}
    for name, norm in norms.items():
        norm.train().num_batches_tracked.zero_()
        norm.observer = sums[name].add
    for batch in itertools.islice(batches, limit):
        (forward or _forward)(worker, batch)
    if any(isinstance(module, BNLSTM) and module.synchronized for module in model.modules()):
        for name, norm in norms.items():
            for total in (*vars(sums[name]).values(), norm.num_batches_tracked):
                sum_over_processes(total)
    estimates = {name: _estimate(name, sums[name]) for name in norms}
    for name, target in model.named_modules():
        if isinstance(target, StepwiseBatchNorm):
            mean, var = estimates[name]
            target.running_mean.copy_(mean)
            target.running_var.copy_(var)
            target.num_batches_tracked.copy_(norms[name].num_batches_tracked)


def _new_sums(norm: StepwiseBatchNorm) -> _Sums:
    zeros = torch.zeros_like(norm.running_mean, dtype=torch.float64)
    return _Sums(zeros[:, 0].clone(), zeros[:, 0].clone(), zeros.clone(), zeros.clone())


def _estimate(name: str, sums: _Sums) -> tuple[Tensor, Tensor]:
    """Return mean and variance, each (S, F)."""
    steps = torch.arange(len(sums.count), device=sums.count.device)
    reached = torch.where(sums.count > 0, steps, -1).cummax(0).values
    if reached[0] < 0:
        raise InputError(
            f"no minibatch of at least 2 streams reached the first timestep of {name or 'norm'}; "
            "pass batches of whole sequences with several streams each"
        )
    mean = sums.mean / sums.count[:, None]
    var = sums.deviation / sums.freedom[:, None]
    return mean[reached], var[reached]


def _forward(model: nn.Module, batch: object) -> object:
    if isinstance(batch, Tensor):
        return model(batch)
    if isinstance(batch, tuple | list) and len(batch) == 2:
        input, lengths = batch
        return model(input, lengths=lengths)
    raise InputError(
        f"a minibatch is a {type(batch).__name__}; pass a tensor, a pair (input, lengths), or "
        "forward=... which runs the model on it"
    )
