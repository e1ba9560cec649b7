"""Batch normalization with one set of population statistics per timestep."""

from collections.abc import Callable

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bnlstm_deploy.errors import InputError


def sum_over_processes(tensor: Tensor) -> None:
    """Replace `tensor` by its sum over the default process group.

    Raises:
        InputError: There is none.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        raise InputError(
            "statistics are to be kept equal over processes, and there is no process group; call "
            "torch.distributed.init_process_group first, or leave out synchronize_statistics"
        )
    distributed.all_reduce(tensor)


class StepwiseBatchNorm(_BatchNorm):
    """Batch normalization over (N, F) whose population statistics depend on the timestep.

        y = weight * (x - mean[k]) / sqrt(var[k] + eps) + bias,    k = min(step, S - 1)

    `weight` (gamma) and `bias` (beta) are shared over time; only the statistics are kept per
    timestep (Cooijmans et al. 2016, section 3). With `affine_per_step` gamma and beta have rows,
    too. Steps past `max_length` use, and in training update, the last row.

    In training the minibatch's own mean and biased variance normalize, and the running statistics
    follow them with the unbiased variance, as in `torch.nn.BatchNorm1d`. A single row has no
    variance: it is normalized with the population statistics and leaves them as they are. That
    happens in a padded batch once all streams but one have ended.

    Args:
        num_features: F.
        max_length: S, the number of timesteps with statistics of their own; 1 shares them.
        eps: Added to the variance.
        momentum: Weight of the new minibatch in the running statistics; None for the plain average
            over all minibatches seen.
        beta: Whether to learn a shift.
        gamma_init: Initial value of every element of `weight`; the paper's is 0.1.
        affine_per_step: Whether gamma and beta are kept per timestep, too.
        device: As in any torch module.
        dtype: As in any torch module.

    Attributes:
        weight: (F,), or (S, F) with `affine_per_step`; gamma.
        bias: Of the same shape; beta, or None.
        running_mean: (S, F).
        running_var: (S, F).
        num_batches_tracked: (S,), int64: minibatches that each row has seen.
        observer: Called in training with each minibatch (n, F) and its row of statistics.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        max_length: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.3,
        beta: bool = True,
        gamma_init: float = 0.1,
        affine_per_step: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)  # torch's batch normalization has one row of statistics
        self.track_running_stats = False  # what torch calls so is another thing
        self.num_features = num_features
        self.max_length = max_length
        self.eps = eps
        self.momentum = momentum
        self.gamma_init = gamma_init
        self.affine_per_step = affine_per_step
        self.observer: Callable[[Tensor, int], None] | None = None
        rows = torch.empty(max_length, num_features, device=device, dtype=dtype)
        gamma = rows if affine_per_step else rows[0]
        self.weight = nn.Parameter(torch.empty_like(gamma))
        self.bias = nn.Parameter(torch.empty_like(gamma)) if beta else None  # type: ignore[assignment]
        self.register_buffer("running_mean", rows)
        self.register_buffer("running_var", rows.clone())
        self.register_buffer(
            "num_batches_tracked", torch.empty(max_length, dtype=torch.int64, device=device)
        )
        self.reset_parameters()

    @property
    def affine(self) -> bool:  # type: ignore[override]
        """Refuse what asks for it: torch.nn.SyncBatchNorm.convert_sync_batchnorm.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "a BNLSTM has no torch.nn.SyncBatchNorm, which keeps one row of statistics for all "
            "timesteps; use bnlstm_deploy.nn.synchronize_statistics(model)"
        )

    def reset_parameters(self) -> None:
        """Set gamma to `gamma_init`, beta and means to 0, variances to 1."""
        nn.init.constant_(self.weight, self.gamma_init)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.running_mean.zero_()
        self.running_var.fill_(1)
        self.num_batches_tracked.zero_()

    def forward(  # type: ignore[override]
        self, input: Tensor, step: int | Tensor
    ) -> Tensor:
        """Normalize one timestep.

        Args:
            input: (N, F).
            step: The timestep of all rows, or an int64 tensor (N,) with one for each row.

        Returns:
            (N, F).

        Raises:
            InputError: Rows at different steps in training, where they have no common minibatch.
        """
        if isinstance(step, Tensor):
            if self.training:
                raise InputError(
                    "a minibatch whose streams are at different steps has no common statistics: "
                    "in training, pass step as one int"
                )
            rows = step.clamp(max=self.max_length - 1)
            weight, bias = self._affine(rows)
            scale = weight / torch.sqrt(self.running_var[rows] + self.eps)
            normalized = (input - self.running_mean[rows]) * scale
            return normalized if bias is None else normalized + bias
        k = min(step, self.max_length - 1)
        weight, bias = self._affine(k)
        use_minibatch = self.training and input.shape[0] > 1
        if use_minibatch and self.observer is not None:
            self.observer(input, k)
        return F.batch_norm(
            input,
            self.running_mean[k],
            self.running_var[k],
            weight,
            bias,
            training=use_minibatch,
            momentum=self._count(k) if use_minibatch else 0.0,
            eps=self.eps,
        )

    def gamma_and_beta(self) -> tuple[Tensor, Tensor | None]:
        """Return gamma and beta, (1, F) or (S, F) each."""
        rows = (-1, self.num_features)
        return self.weight.view(rows), None if self.bias is None else self.bias.view(rows)

    @torch.no_grad()
    def average_over_processes(self) -> None:
        """Replace the running statistics by their mean over the default process group."""
        for statistics in (self.running_mean, self.running_var):
            sum_over_processes(statistics)
            statistics.div_(distributed.get_world_size())
        distributed.all_reduce(self.num_batches_tracked, distributed.ReduceOp.MAX)

    @torch.no_grad()
    def follow(self, mean: Tensor, var: Tensor, step: int) -> None:
        """Let the running statistics follow those of a minibatch.

        Args:
            mean: (T, F), of the minibatch at each timestep.
            var: (T, F), unbiased.
            step: The timestep of the first row.
        """
        last = self.max_length - 1
        apart = min(max(last - step, 0), len(mean))  # timesteps with rows of their own
        if apart:
            self._follow(slice(step, step + apart), mean[:apart], var[:apart])
        for t in range(apart, len(mean)):
            self._follow(slice(last, last + 1), mean[t : t + 1], var[t : t + 1])

    def _follow(self, rows: slice, mean: Tensor, var: Tensor) -> None:
        count = self.num_batches_tracked[rows]
        count += 1
        weight: float | Tensor = count.to(mean.dtype).reciprocal()[:, None]
        if self.momentum is not None:
            weight = self.momentum
        self.running_mean[rows].lerp_(mean, weight)
        self.running_var[rows].lerp_(var, weight)

    def _affine(self, rows: int | Tensor) -> tuple[Tensor, Tensor | None]:
        """Return gamma and beta of a row, (F,), or of N rows, (N, F) or (F,)."""
        if not self.affine_per_step:
            return self.weight, self.bias
        return self.weight[rows], None if self.bias is None else self.bias[rows]

    def _count(self, k: int) -> float:
        """Count a minibatch for row k; return the weight it gets in the running statistics."""
        self.num_batches_tracked[k] += 1
        if self.momentum is not None:
            return self.momentum
        return 1.0 / float(self.num_batches_tracked[k])

    def extra_repr(self) -> str:
        """Return the arguments that tell two instances apart."""
        return (
            f"{self.num_features}, max_length={self.max_length}, eps={self.eps}, "
            f"momentum={self.momentum}, beta={self.bias is not None}"
        )
