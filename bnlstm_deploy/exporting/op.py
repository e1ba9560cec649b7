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


def bnlstm(inputs: Inputs, properties: Mapping[str, str]) -> tuple[Tensor, Tensor, Tensor]:
    """Emit one BNLSTM node; return Y (T, N, H), Y_h and Y_c (N, H).

    X, the weights and Y have one dtype, all else that is not int64 another: the same, or float32.

    Args:
        inputs: Of the node.
        properties: Its metadata properties.
    """
    time, batch = inputs.X.shape[:2]
    hidden = inputs.weight_hh.shape[1]
    dtype, wide = inputs.X.dtype, inputs.initial_c.dtype
    y, y_h, y_c = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{NAME}",
        inputs,
        dtypes=(dtype, wide, wide),
        shapes=((time, batch, hidden), (batch, hidden), (batch, hidden)),
        version=VERSION,
        metadata_props=dict(properties),
    )
    return y, y_h, y_c


def clip_lengths(lengths: Tensor, sequence: Tensor, *, batch_first: bool = False) -> Tensor:
    """Emit `lengths` (N,) or (1,) as (N,), none above T, for a sequence of T steps, N streams."""
    clipped = _emit("Min", (lengths, _size(sequence, int(batch_first))), lengths.shape)
    return _expand(clipped, sequence, batch_first=batch_first)


def next_step(
    start_step: Tensor, lengths: Tensor | None, sequence: Tensor, *, batch_first: bool
) -> Tensor:
    """Emit the step (N,) of each stream after a sequence of T steps, N streams."""
    if lengths is None:
        lengths = _size(sequence, int(batch_first))
    consumed = clip_lengths(lengths, sequence, batch_first=batch_first)
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


def _expand(values: Tensor, sequence: Tensor, *, batch_first: bool) -> Tensor:
    batch = 0 if batch_first else 1
    return _emit("Expand", (values, _size(sequence, batch)), (sequence.shape[batch],))


def _size(sequence: Tensor, axis: int) -> Tensor:
    return _emit("Shape", (sequence,), (1,), start=axis, end=axis + 1)


def _emit(
    name: str,
    inputs: Sequence[Tensor],
    shape: Sequence[int | torch.SymInt],
    **attributes: int,
) -> Tensor:
    return torch.onnx.ops.symbolic(name, inputs, {**attributes}, dtype=torch.int64, shape=shape)
