"""Batch normalization with one set of population statistics per timestep."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnlstm_deploy.errors import InputError


class StepwiseBatchNorm(nn.Module):
    """Batch normalization over (N, F) whose population statistics depend on the timestep.

        y = weight * (x - mean[k]) / sqrt(var[k] + eps) + bias,    k = min(step, S - 1)

    `weight` (gamma) and `bias` (beta) are shared over time; only the statistics are kept per
    timestep (Cooijmans et al. 2016, section 3). Steps past `max_length` use, and in training
    update, the last row.

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
        device: As in any torch module.
        dtype: As in any torch module.

    Attributes:
        weight: (F,), gamma.
        bias: (F,), beta, or None.
        running_mean: (S, F).
        running_var: (S, F).
        num_batches_tracked: (S,), int64: minibatches that each row has seen.
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
        momentum: float | None = 0.1,
        beta: bool = True,
        gamma_init: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.max_length = max_length
        self.eps = eps
        self.momentum = momentum
        self.gamma_init = gamma_init
        gamma = torch.empty(num_features, device=device, dtype=dtype)
        self.weight = nn.Parameter(gamma)
        self.bias = nn.Parameter(torch.empty_like(gamma)) if beta else None
        rows = gamma.new_empty(max_length, num_features)
        self.register_buffer("running_mean", rows)
        self.register_buffer("running_var", rows.clone())
        self.register_buffer(
            "num_batches_tracked", torch.empty(max_length, dtype=torch.int64, device=device)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set gamma to `gamma_init`, beta and means to 0, variances to 1."""
        nn.init.constant_(self.weight, self.gamma_init)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.running_mean.zero_()
        self.running_var.fill_(1)
        self.num_batches_tracked.zero_()

    def forward(self, input: Tensor, step: int | Tensor) -> Tensor:
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
            row = step.clamp(max=self.max_length - 1)
            scale = self.weight / torch.sqrt(self.running_var[row] + self.eps)
            normalized = (input - self.running_mean[row]) * scale
            return normalized if self.bias is None else normalized + self.bias
        k = min(step, self.max_length - 1)
        use_minibatch = self.training and input.shape[0] > 1
        return F.batch_norm(
            input,
            self.running_mean[k],
            self.running_var[k],
            self.weight,
            self.bias,
            training=use_minibatch,
            momentum=self._count(k) if use_minibatch else 0.0,
            eps=self.eps,
        )

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
