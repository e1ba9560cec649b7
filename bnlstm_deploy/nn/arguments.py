"""What `BNLSTM.forward` accepts: checks of its arguments, and sequences of different lengths."""

from typing import Protocol

import torch
from torch import Tensor

from bnlstm_deploy.errors import InputError


class Sizes(Protocol):
    """The sizes of a recurrent module that its arguments must agree with."""

    input_size: int
    hidden_size: int
    num_layers: int
    num_directions: int
    weight_ih_l0: Tensor


def check_input(input: Tensor, sizes: Sizes) -> None:
    """Check rank, feature size and dtype of `input`, (T, N, D) or (N, T, D) or (T, D).

    Raises:
        InputError: Any of them is wrong, or the sequence is empty.
    """
    if input.ndim not in (2, 3):
        raise InputError(f"input has rank {input.ndim}; pass 3 axes, or 2 for a single stream")
    if input.shape[-1] != sizes.input_size:
        raise InputError(
            f"input has {input.shape[-1]} features in its last axis; this model takes "
            f"{sizes.input_size}"
        )
    if 0 in input.shape:
        raise InputError(f"input has shape {tuple(input.shape)}; pass at least one element")
    dtype = sizes.weight_ih_l0.dtype
    if input.dtype != dtype:
        raise InputError(f"input is {input.dtype}, the model {dtype}; convert with input.to(...)")


def check_state(state: tuple[Tensor, Tensor], batch: int, sizes: Sizes) -> None:
    """Check the shapes of h and c, each (num_layers * num_directions, N, H).

    Raises:
        InputError: A wrong shape.
    """
    expected = (sizes.num_layers * sizes.num_directions, batch, sizes.hidden_size)
    for name, tensor in zip("hc", state, strict=True):
        if tuple(tensor.shape) != expected:
            raise InputError(
                f"the initial {name} has shape {tuple(tensor.shape)}; pass {expected}, that is "
                "(num_layers * num_directions, N, hidden_size)"
            )


def check_lengths(lengths: Tensor, batch: int, time: int) -> list[int] | None:
    """Return `lengths` (N,) as ints, or None if no stream is shorter than `time`.

    Raises:
        InputError: Not N integers in 0..T.
    """
    if tuple(lengths.shape) != (batch,) or lengths.is_floating_point():
        raise InputError(
            f"lengths is {lengths.dtype} of shape {tuple(lengths.shape)}; pass {batch} integers, "
            "one for each stream"
        )
    values: list[int] = lengths.tolist()
    if min(values) < 0 or max(values) > time:
        raise InputError(f"lengths run from {min(values)} to {max(values)}; pass 0 to T = {time}")
    return None if min(values) == time else values


def check_step(step: int | Tensor, batch: int, num_directions: int) -> int | Tensor:
    """Return `step` as an int where all streams agree, else as an int64 tensor (N,).

    Raises:
        InputError: Negative, of the wrong shape, or non-zero with two directions.
    """
    if isinstance(step, Tensor):
        if step.is_floating_point() or tuple(step.shape) not in ((), (batch,)):
            raise InputError(
                f"step is {step.dtype} of shape {tuple(step.shape)}; pass an int, or {batch} "
                "integers, one for each stream"
            )
        values = set(step.reshape(-1).tolist())
        lowest = min(values)
        step = values.pop() if len(values) == 1 else step.to(torch.int64)
    else:
        lowest = step
    if lowest < 0:
        raise InputError(f"step is {lowest}; pass the number of timesteps consumed before, >= 0")
    if num_directions == 2 and not (isinstance(step, int) and step == 0):
        raise InputError(
            f"step is {step}, but a bidirectional model cannot continue a stream: its reverse "
            "direction starts at the end. Pass whole sequences with step=0"
        )
    return step


def reverse_valid(sequence: Tensor, lengths: list[int] | None) -> Tensor:
    """Reverse each stream of (T, N, F) over its valid part; padding stays where it is."""
    if lengths is None:
        return sequence.flip(0)
    time = torch.arange(sequence.shape[0], device=sequence.device)[:, None]
    ends = torch.tensor(lengths, device=sequence.device)[None, :]
    source = torch.where(time < ends, ends - 1 - time, time)
    return sequence.gather(0, source[:, :, None].expand_as(sequence))
