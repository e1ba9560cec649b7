"""A whole model around a BNLSTM: the recurrent layers and, optionally, one linear head."""

from typing import get_args

import torch
from torch import Tensor, nn

from bnlstm_deploy.choices import Pooling
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.nn.bnlstm import BNLSTM, State


class BNLSTMModel(nn.Module):
    """A BNLSTM followed by a linear head, the shape of most sequence classifiers and taggers.

    Args:
        rnn: The recurrent layers.
        out_features: Size of the head's output.
        pooling: `"last"` reads the last layer's final hidden state (both directions joined), which
            honours `lengths`; `"every"` reads the output at every timestep.

    Raises:
        InputError: An unknown pooling or a size below 1.
    """

    def __init__(self, rnn: BNLSTM, out_features: int, pooling: Pooling = "last") -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise InputError(f"pooling is {pooling!r}; pass one of {get_args(Pooling)}")
        if not isinstance(out_features, int) or out_features < 1:
            raise InputError(f"out_features is {out_features!r}; pass an integer of at least 1")
        self.rnn = rnn
        self.pooling = pooling
        self.head = nn.Linear(
            rnn.hidden_size * rnn.num_directions,
            out_features,
            device=rnn.weight_ih_l0.device,
            dtype=rnn.weight_ih_l0.dtype,
        )

    def forward(
        self,
        input: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        step: int | Tensor = 0,
    ) -> tuple[Tensor, State]:
        """Run the layers and the head; arguments and errors are those of `BNLSTM.forward`.

        Returns:
            The head's output, (N, out_features) for `"last"` and with two leading axes laid out as
            those of `input` for `"every"`, and the final h and c.
        """
        output, (h, c) = self.rnn(input, state, lengths=lengths, step=step)
        if self.pooling == "last":
            output = torch.cat(tuple(h[-self.rnn.num_directions :]), dim=-1)
        return self.head(output), (h, c)
