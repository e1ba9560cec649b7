"""FoldedBNLSTM: the torch module that takes the place of a BNLSTM for export."""

from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor, nn

from bnlstm_deploy.errors import ExportError
from bnlstm_deploy.exporting import op
from bnlstm_deploy.exporting.choose import CUDA, Choice, Request, choose
from bnlstm_deploy.folding import FoldedDirection, FoldedLSTM, fold, merge
from bnlstm_deploy.folding.approximate import EXACT, Approximation, round_floats
from bnlstm_deploy.nn import BNLSTM, State
from bnlstm_deploy.nn.arguments import check_step

WEIGHTS = ("weight_ih", "weight_hh")
"""The arrays that are operands of matrix products."""


class FoldedBNLSTM(nn.Module):
    """A folded BNLSTM with the `forward` of the BNLSTM that it was folded from.

    Inside `torch.onnx.export` its forward emits one `bnlstm::BNLSTM` node for each layer and
    direction. Elsewhere it runs `FoldedLSTM.run`, the numpy reference, on the CPU and without
    gradients.

    Args:
        module: The BNLSTM to fold.
        dtype: To which the float64 fold is rounded, once; the module's own by default. float16 and
            bfloat16 are that of the weights, and all else is float32.
        approximation: What is changed on purpose; nothing by default.
        path: Of the module in its model, by which the approximation may know it.

    Attributes:
        folded: The fold, rounded, with equal rows merged and constant scales in the weights.
        final: The last call's final h and c, in the dtype of states; what `forward` returns is of
            the input's.
        choices: The form and folding that each layer and direction is exported in, by the suffix
            of its arrays; `choose` sets them.
        counts_on_device: Whether lengths and steps stay on the device that the graph runs on.
        {array}_l{k}[_reverse]: Buffers with the arrays of `FoldedDirection`. Scales and shifts
            that change nothing, those of normalizations switched off, are left out, and so are
            rows that are 0, 1, ..., K - 1.
        initial_h, initial_c: Buffers (num_layers * num_directions, 1, H): the state that streams
            start from where none is given.
    """

    initial_h: Tensor
    initial_c: Tensor

    def __init__(
        self,
        module: BNLSTM,
        dtype: torch.dtype | None = None,
        *,
        approximation: Approximation = EXACT,
        path: str = "",
    ) -> None:
        super().__init__()
        self.batch_first = module.batch_first
        self.num_directions = module.num_directions
        self.suffixes = [suffix for _, suffix in module.directions()]
        dtype = dtype or module.weight_ih_l0.dtype
        self.dtype, self.wide = dtype, wide_dtype(dtype)
        exact = approximation.apply(fold(module), path)
        # Rows that differed and are equal once rounded are equal to the graph.
        self.folded: FoldedLSTM = exact.map(lambda d: merge(round_to(d, dtype)))
        for suffix, direction in self.directions():
            for name in _useful_arrays(direction):
                array = torch.from_numpy(np.ascontiguousarray(getattr(direction, name)))
                stored = getattr(torch, approximation.weights or str(dtype).removeprefix("torch."))
                narrow = name in WEIGHTS and stored != self.wide
                self.register_buffer(name + suffix, array.to(stored) if narrow else array)
        for name, state in zip(("initial_h", "initial_c"), module.initial_state(1), strict=True):
            self.register_buffer(name, state.detach().to("cpu", self.wide, copy=True))
        self.final: State = (self.initial_h, self.initial_c)
        self.choices: dict[str, Choice] = {}
        self.counts_on_device = False
        self.choose(Request(form="scan"))

    def directions(self) -> Iterator[tuple[str, FoldedDirection]]:
        """Yield the suffix, `_l0`, `_l0_reverse`, `_l1`, ..., and the fold of each direction."""
        folds = (direction for layer in self.folded.layers for direction in layer)
        return zip(self.suffixes, folds, strict=True)

    def choose(self, request: Request, path: str = "") -> None:
        """Set the form and folding of each layer and direction.

        Args:
            request: What is asked for.
            path: Of the module in its model, for messages.

        Raises:
            ExportError: The form that is asked for is not exact for one of them.
        """
        self.counts_on_device = request.target == CUDA
        prefix = f"{path}." if path else ""
        self.choices = {
            suffix: choose(direction, request, prefix + suffix)
            for suffix, direction in self.directions()
        }

    def forward(
        self,
        input: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        step: int | Tensor = 0,
    ) -> tuple[Tensor, State]:
        """Compute what `BNLSTM.forward` computes; arguments and results are the same.

        Raises:
            ExportError: A single stream without a batch axis, or a constant step in an export.
        """
        if input.ndim != 3:
            raise ExportError(
                f"the model calls its BNLSTM with an input of {input.ndim} axes; for export it "
                "must have a batch axis, (N, T, D) or (T, N, D)"
            )
        x = input.transpose(0, 1) if self.batch_first else input
        run = self._emit if torch.onnx.is_in_onnx_export() else self._run
        y, self.final = run(x, state, lengths, step)
        final = (self.final[0].to(x.dtype), self.final[1].to(x.dtype))
        return y.transpose(0, 1) if self.batch_first else y, final

    def _run(
        self, x: Tensor, state: State | None, lengths: Tensor | None, step: int | Tensor
    ) -> tuple[Tensor, State]:
        step = check_step(step, x.shape[1], self.num_directions)
        if state is None:
            rows = (len(self.suffixes), x.shape[1], self.folded.hidden_size)
            state = (self.initial_h.expand(rows), self.initial_c.expand(rows))
        y, (h, c) = self.folded.run(
            x.to(self.wide).numpy(force=True),
            (state[0].to(self.wide).numpy(force=True), state[1].to(self.wide).numpy(force=True)),
            lengths=None if lengths is None else lengths.numpy(force=True),
            step=step.numpy(force=True) if isinstance(step, Tensor) else step,
        )
        return torch.from_numpy(y).to(x.dtype), (torch.from_numpy(h), torch.from_numpy(c))

    def _emit(
        self, x: Tensor, state: State | None, lengths: Tensor | None, step: int | Tensor
    ) -> tuple[Tensor, State]:
        if isinstance(step, int):
            if step != 0:
                raise ExportError(
                    f"the model calls its BNLSTM with step={step}, a constant. Leave it out: the "
                    "graph gets an input start_step"
                )
            start_step = None
        else:
            start_step = step
        if state is None:
            state = (self.initial_h, self.initial_c)
        state = (state[0].to(self.wide), state[1].to(self.wide))
        ends = None  # reversal needs one length for each stream, also where the graph's is (1,)
        if lengths is not None and self.num_directions == 2:
            ends = op.clip_lengths(lengths, x, on_device=self.counts_on_device)
        finals: list[State] = []
        outputs: list[Tensor] = []
        folds = dict(self.directions())
        for row, suffix in enumerate(self.suffixes):
            reverse, choice = suffix.endswith("_reverse"), self.choices[suffix]
            if len(outputs) == self.num_directions:
                x, outputs = torch.cat(outputs, dim=2), []
            y, y_h, y_c = op.bnlstm(
                op.Inputs(
                    X=self._reverse(x, ends) if reverse else x,
                    initial_h=state[0][row],
                    initial_c=state[1][row],
                    lengths=lengths,
                    start_step=start_step,
                    **self._arrays(suffix),
                ),
                {op.FORM_PROPERTY: choice.form, op.FOLDING_PROPERTY: choice.folding},
                folds[suffix].h_levels,
            )
            outputs.append(self._reverse(y, ends) if reverse else y)
            finals.append((y_h, y_c))
        h, c = (torch.stack(part) for part in zip(*finals, strict=True))
        return torch.cat(outputs, dim=2), (h, c)

    def _reverse(self, sequence: Tensor, ends: Tensor | None) -> Tensor:
        return sequence.flip(0) if ends is None else op.reverse_valid(sequence, ends)

    def _arrays(self, suffix: str) -> dict[str, Tensor]:
        buffers = dict(self.named_buffers())
        names = [field.name for field in fields(FoldedDirection)]
        return {name: buffers[name + suffix] for name in names if name + suffix in buffers}


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of states, scales and biases where weights are of `dtype`."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def round_to(direction: FoldedDirection, dtype: torch.dtype) -> FoldedDirection:
    """Round a float64 fold once: weights to `dtype`, all else to the wide dtype, which holds both.

    Raises:
        FoldError: A value does not fit.
    """
    rounded = direction.astype(torch.empty(0, dtype=wide_dtype(dtype)).numpy().dtype)
    if dtype == wide_dtype(dtype):
        return rounded
    name = str(dtype).removeprefix("torch.")
    weight_ih, weight_hh = (
        round_floats(getattr(direction, n), name).astype(np.float32) for n in WEIGHTS
    )
    return replace(rounded, weight_ih=weight_ih, weight_hh=weight_hh)


def _useful_arrays(direction: FoldedDirection) -> list[str]:
    names = ["weight_ih", "weight_hh", "bias"]
    names += [n for n in ("input_scale", "hidden_scale") if (getattr(direction, n) != 1).any()]
    if direction.normalizes_cell:
        names += ["cell_scale", "cell_shift"]
    if not np.array_equal(direction.rows, np.arange(len(direction.bias))):
        names.append("rows")
    return names
