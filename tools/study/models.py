"""What is trained: an experiment's settings, and the model that they say."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.nn.bnlstm import State
from bnlstm_deploy.normalizations import PATHS, NormPath

Kind = Literal["batch", "layer"]
"""What kind of normalization."""


def subsets() -> Iterator[tuple[NormPath, ...]]:
    """Yield the 8 subsets of the normalizations, the smaller ones first."""
    for size in range(len(PATHS) + 1):
        yield from combinations(PATHS, size)


@dataclass(frozen=True)
class Experiment:
    """One model, trained once."""

    task: str
    normalize: tuple[NormPath, ...] = PATHS
    """() is `torch.nn.LSTM`, to the last bit of its output."""
    kind: Kind = "batch"
    gamma_init: float = 0.1
    shared: bool = False
    """One row of statistics for all timesteps."""
    sequence_wise: bool = False
    """Input statistics over streams and timesteps at once (Laurent et al. 2015)."""
    forget_bias: float = 0.0
    num_layers: int = 1
    dropout: float = 0.0
    """Between layers (Zaremba et al. 2014)."""
    seed: int = 0

    @property
    def variant(self) -> str:
        """What differs from the plain LSTM, in words; experiments that differ by seed share it."""
        name = "layer norm" if self.kind == "layer" else "+".join(self.normalize) or "lstm"
        extras = {
            f"gamma {self.gamma_init:g}": self.normalize and self.gamma_init != 0.1,
            "shared": self.shared,
            "sequence-wise": self.sequence_wise,
            f"forget bias {self.forget_bias:g}": self.forget_bias,
            f"{self.num_layers} layers": self.num_layers > 1,
            f"dropout {self.dropout:g}": self.dropout,
        }
        return ", ".join([name, *(text for text, said in extras.items() if said)])

    @property
    def name(self) -> str:
        """What tells it from all others."""
        return f"{self.task}: {self.variant}, seed {self.seed}"

    def settings(self) -> dict[str, object]:
        """Return its fields, for a results file."""
        return asdict(self)


class LayerNormLSTM(nn.Module):
    """An LSTM with layer normalization of both products and the cell state (Ba et al. 2016).

        i, f, g, o = LN(W_ih x) + LN(W_hh h) + b
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(LN(c))

    Statistics are those of one stream at one timestep, so that nothing is kept and nothing folds.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        cell = nn.LSTMCell(input_size, hidden_size)
        self.weight_ih_l0, self.weight_hh_l0 = cell.weight_ih, cell.weight_hh
        self.bias_ih_l0, self.bias_hh_l0 = cell.bias_ih, cell.bias_hh
        sizes = (4 * hidden_size, 4 * hidden_size, hidden_size)
        self.input_norm, self.hidden_norm, self.cell_norm = (
            nn.LayerNorm(size, bias=size == hidden_size) for size in sizes
        )

    def forward(
        self, input: Tensor, state: State | None = None, *, step: int = 0
    ) -> tuple[Tensor, State]:
        """Run over (N, T, D), as `BNLSTM` with `batch_first`; it has no use for the step."""
        del step
        if state is None:
            zeros = input.new_zeros(1, len(input), self.hidden_size)
            state = (zeros, zeros)
        h, c = state[0][0], state[1][0]
        products = self.input_norm(nn.functional.linear(input, self.weight_ih_l0))
        products = products + self.bias_ih_l0 + self.bias_hh_l0
        outputs = []
        for product in products.unbind(1):
            hidden = self.hidden_norm(nn.functional.linear(h, self.weight_hh_l0))
            i, f, g, o = (product + hidden).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * self.cell_norm(c).tanh()
            outputs.append(h)
        return torch.stack(outputs, 1), (h[None], c[None])


class Model(nn.Module):
    """The recurrent layers and a linear head, which reads the last timestep or every one."""

    def __init__(
        self, experiment: Experiment, features: int, hidden_size: int, length: int, out: int,
        every: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        rnn: BNLSTM | LayerNormLSTM
        if experiment.kind == "layer":
            rnn = LayerNormLSTM(features, hidden_size)
        else:
            rnn = BNLSTM(
                features,
                hidden_size,
                experiment.num_layers,
                batch_first=True,
                dropout=experiment.dropout,
                max_length=length,
                normalize=experiment.normalize,
                shared_statistics=PATHS if experiment.shared else (),
                sequence_wise=experiment.sequence_wise,
                gamma_init=experiment.gamma_init,
            )
        self.rnn, self.every = rnn, every
        self.head = nn.Linear(hidden_size, out)
        with torch.no_grad():
            for name, parameter in rnn.named_parameters():
                if name.startswith("bias_ih"):
                    parameter[hidden_size : 2 * hidden_size] += experiment.forget_bias

    def forward(self, x: Tensor, state: State | None = None, step: int = 0) -> tuple[Tensor, State]:
        """Return the head's output, (N, out) or (N, T, out), and the final state."""
        output, state = self.rnn(x, state, step=step)
        return self.head(output if self.every else output[:, -1]), state
