"""The batch-normalized LSTM to train: `torch.nn.LSTM` with normalization at each timestep."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from typing import overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.nn.arguments import (
    check_input,
    check_lengths,
    check_state,
    check_step,
    reverse_valid,
)
from bnlstm_deploy.nn.cell import PAPER_BETA, Norms, NormSettings, check_size
from bnlstm_deploy.nn.norm import StepwiseBatchNorm
from bnlstm_deploy.nn.recurrence import normalize_sequences, run_sequence, train_sequence
from bnlstm_deploy.nn.training import Weights
from bnlstm_deploy.normalizations import PATHS, NormPath

State = tuple[Tensor, Tensor]
"""h and c, each (num_layers * num_directions, N, H)."""


class BNLSTM(nn.Module):
    """A batch-normalized LSTM (Cooijmans et al. 2016, "Recurrent Batch Normalization").

    Constructor, `forward` and parameters are those of `torch.nn.LSTM`, with the normalizations in
    addition. With `normalize=()` it computes what `torch.nn.LSTM` computes and loads its state
    dict. For timestep t of a stream that consumed `step` timesteps before, with `BN_k` the
    normalization with statistics row `k = min(step + t, S - 1)`:

        i, f, g, o = BN_k(W_ih x_t) + BN_k(W_hh h) + b_ih + b_hh
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(BN_k(c))

    In training, minibatch statistics normalize and the running statistics follow them by moving
    average; in evaluation the running statistics normalize. `recalibrate` replaces the moving
    averages by averages over a data set, the paper's method.

    Args:
        input_size: D.
        hidden_size: H.
        num_layers: Layers; layer l + 1 reads, and normalizes, the output of layer l.
        bias: Whether to learn `bias_ih_l*` and `bias_hh_l*`.
        batch_first: Whether input and output are (N, T, .) instead of (T, N, .).
        dropout: Probability of a zero between layers, in training.
        bidirectional: Whether to add a reverse direction. It runs over the valid part of each
            stream, from its end, with steps, weights and statistics of its own.
        max_length: S, the number of timesteps with statistics of their own. Later timesteps use
            the last. 1 shares the statistics over time.
        normalize: Which products are normalized, any subset of `("input", "hidden", "cell")`.
        beta: Which of the normalizations learn a shift. The paper's choice is the cell's alone,
            since the bias already shifts the gates.
        shared_statistics: Which of the normalizations share one row of statistics over time, while
            the others have `max_length`.
        affine_per_step: Which of the normalizations keep gamma and beta per timestep, too.
        sequence_wise: Whether the input product is normalized over all streams *and* timesteps of
            a minibatch at once (Laurent et al. 2015), which shares its statistics.
        eps: Added to each variance: one number, or one for each path.
        momentum: Weight of a new minibatch in the running statistics; None averages all alike.
        gamma_init: Initial value of every gamma.
        learn_initial_state: Whether to learn the state that streams start from, instead of 0.
        checkpoint_steps: Gradient checkpointing over time: in training only the states after every
            so many timesteps are kept for the backward pass, which computes the rest once more. The
            square root of T takes the least memory. None keeps all.
        device: As in `torch.nn.LSTM`.
        dtype: As in `torch.nn.LSTM`.

    Attributes:
        weight_ih_l{k}[_reverse]: (4H, D) for k = 0, else (4H, num_directions * H); i, f, g, o.
        weight_hh_l{k}[_reverse]: (4H, H).
        bias_ih_l{k}[_reverse]: (4H,).
        bias_hh_l{k}[_reverse]: (4H,).
        input_norm_l{k}[_reverse]: StepwiseBatchNorm over 4H features, or None.
        hidden_norm_l{k}[_reverse]: StepwiseBatchNorm over 4H features, or None.
        cell_norm_l{k}[_reverse]: StepwiseBatchNorm over H features, or None.
        synchronized: Whether running statistics are kept equal over processes, see
            `synchronize_statistics`.
        h_0, c_0: (num_layers * num_directions, H), the learned initial state, or None.

    Raises:
        InputError: A size below 1, a dropout outside 0..1 or an unknown path.
    """

    weight_ih_l0: Tensor
    h_0: Tensor | None
    c_0: Tensor | None
    max_length: int
    normalize: tuple[NormPath, ...]
    eps: float | dict[NormPath, float]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        max_length: int,
        normalize: Collection[NormPath] = PATHS,
        beta: Collection[NormPath] = PAPER_BETA,
        shared_statistics: Collection[NormPath] = (),
        affine_per_step: Collection[NormPath] = (),
        sequence_wise: bool = False,
        eps: float | Mapping[NormPath, float] = 1e-5,
        momentum: float | None = 0.3,
        gamma_init: float = 0.1,
        learn_initial_state: bool = False,
        checkpoint_steps: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        for name, size in sizes.items():
            check_size(name, size)
        if checkpoint_steps is not None:
            check_size("checkpoint_steps", checkpoint_steps)
        if not 0 <= dropout <= 1:
            raise InputError(f"dropout is {dropout}; pass a probability from 0 to 1")
        settings = NormSettings(
            max_length,
            normalize,
            beta,
            {*shared_statistics, "input"} if sequence_wise else shared_statistics,
            affine_per_step,
            eps,
            momentum,
            gamma_init,
        )
        for field in fields(settings):
            setattr(self, field.name, getattr(settings, field.name))
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.num_directions = 2 if bidirectional else 1
        self.sequence_wise = sequence_wise
        self.learn_initial_state = learn_initial_state
        self.checkpoint_steps = checkpoint_steps
        self.synchronized = False
        rows = (num_layers * self.num_directions, hidden_size)
        for name in ("h_0", "c_0"):
            state = torch.empty(rows, device=device, dtype=dtype)
            self.register_parameter(name, nn.Parameter(state) if learn_initial_state else None)
        for layer, suffix in self.directions():
            features = input_size if layer == 0 else hidden_size * self.num_directions
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (4 * hidden_size, features),
                "weight_hh": (4 * hidden_size, hidden_size),
            }
            if bias:
                shapes |= {"bias_ih": (4 * hidden_size,), "bias_hh": (4 * hidden_size,)}
            for name, shape in shapes.items():
                parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                self.register_parameter(name + suffix, parameter)
            for path, norm in zip(PATHS, settings.make(hidden_size, device, dtype), strict=True):
                self.register_module(f"{path}_norm{suffix}", norm)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize all parameters as `torch.nn.LSTM` does its own, and the normalizations."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)
        for layer, suffix in self.directions():
            del layer
            for norm in self.norms(suffix):
                if norm is not None:
                    norm.reset_parameters()

    def directions(self) -> Iterator[tuple[int, str]]:
        """Yield the layer and the parameters' suffix, `_l0`, `_l0_reverse`, `_l1`, ..., of each."""
        for layer in range(self.num_layers):
            for reverse in ("", "_reverse")[: self.num_directions]:
                yield layer, f"_l{layer}{reverse}"

    def norms(self, suffix: str) -> Norms:
        """Return the normalizations of the layer and direction with that suffix."""
        return Norms(*(getattr(self, f"{path}_norm{suffix}") for path in PATHS))

    def initial_state(self, batch: int) -> State:
        """Return the state of `batch` streams where none is given: the learned one, or zeros."""
        rows = (self.num_layers * self.num_directions, batch, self.hidden_size)
        if self.h_0 is None or self.c_0 is None:
            zeros = self.weight_ih_l0.new_zeros(rows)
            return zeros, zeros
        return self.h_0[:, None].expand(rows), self.c_0[:, None].expand(rows)

    @overload
    def forward(
        self,
        input: Tensor,
        state: State | None = None,
        *,
        hx: State | None = None,
        lengths: Tensor | None = None,
        step: int | Tensor = 0,
    ) -> tuple[Tensor, State]: ...

    @overload
    def forward(
        self,
        input: PackedSequence,
        state: State | None = None,
        *,
        hx: State | None = None,
        lengths: Tensor | None = None,
        step: int | Tensor = 0,
    ) -> tuple[PackedSequence, State]: ...

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: State | None = None,
        *,
        hx: State | None = None,
        lengths: Tensor | None = None,
        step: int | Tensor = 0,
    ) -> tuple[Tensor | PackedSequence, State]:
        """Run over a minibatch of sequences.

        To continue streams in chunks, carry the state *and* the step: `step` of the next call is
        the number of timesteps consumed by all calls before.

        Args:
            input: (T, N, D), or (N, T, D) with `batch_first`, or (T, D) for a single stream; or a
                PackedSequence, which brings its lengths along.
            state: The initial h and c, each (num_layers * num_directions, N, H), without N for a
                single stream; by default the learned ones, or zeros.
            hx: Another name of `state`, that of torch.nn.LSTM.
            lengths: (N,) integers in 0..T: valid timesteps of each stream. Past its length a
                stream's state is held and its output is 0, as `pad_packed_sequence` gives, and
                padding does not reach the statistics.
            step: Timesteps that the streams consumed before: an int, or (N,) integers. Must be 0
                with two directions.

        Returns:
            The output, (T, N, num_directions * H) or as `input` is laid out, and the final h and c,
            each (num_layers * num_directions, N, H). The output of a PackedSequence is one.

        Raises:
            InputError: A wrong rank, size, dtype or range; in training, fewer than two streams.
        """
        if hx is not None:
            if state is not None:
                raise InputError("state and hx are both given, two names of one thing; pass one")
            state = hx
        if isinstance(input, PackedSequence):
            return self._run_packed(input, state, lengths, step)
        check_input(input, self)
        single = input.ndim == 2
        if single:
            input = input.unsqueeze(1)
            state = None if state is None else (state[0].unsqueeze(1), state[1].unsqueeze(1))
        elif self.batch_first:
            input = input.transpose(0, 1)
        time, batch, _ = input.shape
        if self.training and self.normalize and batch < 2:
            raise InputError(
                "the minibatch has one stream, which has no variance: in training, pass at least 2"
            )
        if state is None:
            state = self.initial_state(batch)
        check_state(state, batch, self)
        ends = None if lengths is None else check_lengths(lengths, batch, time)
        step = check_step(step, batch, self.num_directions)

        output = input
        finals: list[State] = []
        outputs: list[Tensor] = []
        for row, (layer, suffix) in enumerate(self.directions()):
            reverse = suffix.endswith("_reverse")
            if layer > 0 and not reverse:
                output = torch.cat(outputs, dim=2)
                output = F.dropout(output, self.dropout, training=self.training)
                outputs = []
            sequence = reverse_valid(output, ends) if reverse else output
            y, final = self._run(suffix, sequence, (state[0][row], state[1][row]), ends, step)
            outputs.append(reverse_valid(y, ends) if reverse else y)
            finals.append(final)
        if self.training and self.synchronized:
            for norm in self.modules():
                if isinstance(norm, StepwiseBatchNorm):
                    norm.average_over_processes()
        output = torch.cat(outputs, dim=2)
        h, c = (torch.stack(part) for part in zip(*finals, strict=True))
        if single:
            return output.squeeze(1), (h.squeeze(1), c.squeeze(1))
        return output.transpose(0, 1) if self.batch_first else output, (h, c)

    def _run_packed(
        self,
        input: PackedSequence,
        state: State | None,
        lengths: Tensor | None,
        step: int | Tensor,
    ) -> tuple[PackedSequence, State]:
        """Run over a PackedSequence; states are in the order that its streams had before."""
        if lengths is not None:
            raise InputError("input is a PackedSequence, which has lengths; leave out lengths=")
        padded, ends = pad_packed_sequence(input, batch_first=self.batch_first)
        output, state = self.forward(padded, state, lengths=ends, step=step)
        if input.sorted_indices is not None:
            output = output.index_select(0 if self.batch_first else 1, input.sorted_indices)
            ends = ends[input.sorted_indices.cpu()]
        packed = pack_padded_sequence(output, ends, batch_first=self.batch_first)
        return input._replace(data=packed.data), state

    def _run(
        self,
        suffix: str,
        sequence: Tensor,
        state: State,
        lengths: list[int] | None,
        step: int | Tensor,
    ) -> tuple[Tensor, State]:
        """Run one layer and direction over (T, N, .); h and c are (N, H)."""
        bias = None
        if self.bias:
            bias = getattr(self, f"bias_ih{suffix}") + getattr(self, f"bias_hh{suffix}")
        norms = self.norms(suffix)
        weight_ih = getattr(self, f"weight_ih{suffix}")
        weight_hh = getattr(self, f"weight_hh{suffix}")
        modes = {norm.training for norm in norms if norm is not None} or {self.training}
        if self.sequence_wise and norms.input is not None:
            sequence = normalize_sequences(norms.input, F.linear(sequence, weight_ih), lengths)
            weight_ih = None
            norms = norms._replace(input=None)
        run, train = run_sequence, train_sequence
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            # T timesteps are more nodes than a compiler can take: what is around them is compiled
            run = torch.compiler.disable(run)  # type: ignore[no-untyped-call]
            train = torch.compiler.disable(train)  # type: ignore[no-untyped-call]
        if isinstance(step, int) and modes == {True}:
            weights = Weights(weight_ih, weight_hh, bias)
            return train(sequence, state, weights, norms, lengths, step, self.checkpoint_steps)
        products = sequence if weight_ih is None else F.linear(sequence, weight_ih)
        return run(products, state, weight_hh, bias, norms, lengths, step)

    def extra_repr(self) -> str:
        """Return the constructor's arguments that differ from the defaults, and the sizes."""
        text = f"{self.input_size}, {self.hidden_size}, max_length={self.max_length}"
        if self.num_layers != 1:
            text += f", num_layers={self.num_layers}"
        if not self.bias:
            text += ", bias=False"
        if self.batch_first:
            text += ", batch_first=True"
        if self.dropout:
            text += f", dropout={self.dropout}"
        if self.bidirectional:
            text += ", bidirectional=True"
        return f"{text}, normalize={self.normalize}"
