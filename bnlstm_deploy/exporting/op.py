"""The operator `bnlstm::BNLSTM`: its contract, and how a traced torch model calls it.

The contract is documented in docs/operator.md. The functions here emit ONNX nodes and work only
inside `torch.onnx.export`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

DOMAIN = "bnlstm"
NAME = "BNLSTM"
VERSION = 1

FORM_PROPERTY, FOLDING_PROPERTY = "bnlstm.form", "bnlstm.folding"
"""Metadata properties of a node: how its function body is written."""


class Inputs(NamedTuple):
    """The operator's inputs, in order; those that default to None may be left empty."""

    X: Tensor
    """(T, N, D)."""
    weight_ih: Tensor
    """(4H, D)."""
    weight_hh: Tensor
    """(4H, H)."""
    bias: Tensor
    """(K, 4H)."""
    initial_h: Tensor
    """(N, H) or (1, H)."""
    initial_c: Tensor
    """(N, H) or (1, H)."""
    input_scale: Tensor | None = None
    """(K, 4H); 1 if left empty."""
    hidden_scale: Tensor | None = None
    """(K, 4H); 1 if left empty."""
    cell_scale: Tensor | None = None
    """(K, H); 1 if left empty."""
    cell_shift: Tensor | None = None
    """(K, H); 0 if left empty. Empty exactly if `cell_scale` is."""
    lengths: Tensor | None = None
    """(N,) or (1,), int64; T if left empty, and a value above T means T."""
    start_step: Tensor | None = None
    """(N,) or (1,), int64; 0 if left empty."""
    rows: Tensor | None = None
    """(S,), int64, the row of each timestep; 0, 1, ..., K - 1 if left empty."""


OUTPUTS = ("Y", "Y_h", "Y_c")


H_LEVELS = "h_levels"
"""The operator's attribute: L > 0 if h is round(L * h) in the hidden product, at most L."""


def bnlstm(
    inputs: Inputs, properties: Mapping[str, str], h_levels: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Emit one BNLSTM node; return Y (T, N, H), Y_h and Y_c (N, H).

    X, the weights and Y have one dtype, all else that is not int64 another: the same, or float32.

    Args:
        inputs: Of the node.
        properties: Its metadata properties.
        h_levels: Its attribute; 0 for none.
    """
    time, batch = inputs.X.shape[:2]
    hidden = inputs.weight_hh.shape[1]
    dtype, wide = inputs.X.dtype, inputs.initial_c.dtype
    y, y_h, y_c = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{NAME}",
        inputs,
        {H_LEVELS: h_levels} if h_levels else {},
        dtypes=(dtype, wide, wide),
        shapes=((time, batch, hidden), (batch, hidden), (batch, hidden)),
        version=VERSION,
        metadata_props=dict(properties),
    )
    return y, y_h, y_c


def of_streams(counts: Tensor, sequence: Tensor, *, batch_first: bool = False) -> Tensor:
    """Emit lengths or steps, (N,) or (1,), as (N,), for a sequence of N streams."""
    batch = 0 if batch_first else 1
    return _emit("Expand", (counts, _size(sequence, batch)), (sequence.shape[batch],))


def clip_lengths(
    lengths: Tensor, sequence: Tensor, *, on_device: bool, batch_first: bool = False
) -> Tensor:
    """Emit `lengths` (N,) or (1,) as (N,), none above T, for a sequence of T steps, N streams.

    Args:
        lengths: Of the streams; with `on_device` (N,) already.
        sequence: The sequence.
        on_device: Whether T is to be where lengths are, on a GPU. As the size of an axis it is on
            the CPU, and ONNX Runtime puts what computes with sizes and small defaults there, too.
        batch_first: Whether the sequence is (N, T, ...).
    """
    time = int(batch_first)
    size = _size(sequence, time)
    if on_device:
        if not isinstance(sequence.shape[time], int):
            size = _last_below(size + 1)
        return _emit("Min", (lengths, size), lengths.shape)
    clipped = _emit("Min", (lengths, size), lengths.shape)
    return of_streams(clipped, sequence, batch_first=batch_first)


def next_step(
    start_step: Tensor,
    lengths: Tensor | None,
    sequence: Tensor,
    *,
    on_device: bool,
    batch_first: bool,
) -> Tensor:
    """Emit the step (N,) of each stream after a sequence of T steps, N streams."""
    if lengths is None:
        lengths = _size(sequence, int(batch_first))
        on_device = False
    consumed = clip_lengths(lengths, sequence, on_device=on_device, batch_first=batch_first)
    return _emit("Add", (start_step, consumed), consumed.shape)


def reverse_valid(sequence: Tensor, lengths: Tensor) -> Tensor:
    """Emit the reversal of each stream of (T, N, F) over its valid part, lengths (N,)."""
    return torch.onnx.ops.symbolic(
        "ReverseSequence",
        (sequence, lengths),
        {"time_axis": 0, "batch_axis": 1},
        dtype=sequence.dtype,
        shape=sequence.shape,
    )


def _size(sequence: Tensor, axis: int) -> Tensor:
    return _emit("Shape", (sequence,), (1,), start=axis, end=axis + 1)


def _last_below(size: Tensor) -> Tensor:
    """Emit `size - 1` for a size (1,) of the CPU, as what a GPU itself wrote."""
    zero, one = torch.tensor(0), torch.tensor(1)
    range_ = _emit("Range", (zero, _emit("Gather", (size, zero), ()), one), (2,))
    return _emit("Slice", (range_, torch.tensor([-1]), torch.tensor([2**62])), (1,))


def _emit(
    name: str,
    inputs: Sequence[Tensor],
    shape: Sequence[int | torch.SymInt],
    **attributes: int,
) -> Tensor:
    return torch.onnx.ops.symbolic(name, inputs, {**attributes}, dtype=torch.int64, shape=shape)
