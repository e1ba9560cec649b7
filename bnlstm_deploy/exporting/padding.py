"""Whether a model's outputs are the same for padded sequences, and their time: by running it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bnlstm_deploy.exporting.lifted import Lifted
from bnlstm_deploy.exporting.values import GraphInput
from bnlstm_deploy.signature import TIME

CLOSE = 1e-2
"""Part of the largest output within which outputs are the same: far above the rounding of float16,
and below what a mean over time moves by."""


def find_time_axes(lifted: Lifted, inputs: Sequence[GraphInput]) -> dict[int, int] | None:
    """Find the time axes of a model's outputs, if it may be given padded sequences.

    It may, if padding time, and passing `lengths`, leaves the valid part of all outputs the same.
    The recurrent layers do. A model that does something else over time, such as a mean, does not.

    Args:
        lifted: The model that is exported.
        inputs: Its own inputs, all with their dynamic axes.

    Returns:
        The time axis of each output that has one, by the output's number; None if padding changes
        an output.
    """
    lengths = [name for name in lifted.accepts if name.endswith("lengths")]
    axes = {
        i: axis
        for i, value in enumerate(inputs)
        for axis, dimension in value.axes.items()
        if dimension == TIME
    }
    if len(lengths) != len(lifted.layers) or not axes:
        return None
    generator = torch.Generator().manual_seed(0)
    padded = [_random(value.example, generator) for value in inputs]
    first = next(iter(axes))
    time = padded[first].shape[axes[first]]
    if time < 2:
        return None
    short = [x.narrow(axes[i], 0, time - 1) if i in axes else x for i, x in enumerate(padded)]
    try:
        with torch.no_grad():
            exact, left = lifted(short, {})
            batch = next(iter(left.values())).shape[1]
            given = dict.fromkeys(lengths, torch.full((batch,), time - 1))
            outputs, _ = lifted(padded, given)
    except RuntimeError:  # the model takes one number of timesteps only
        return None
    found: dict[int, int] = {}
    for number, (whole, part) in enumerate(zip(outputs, exact, strict=True)):
        differs = [axis for axis in range(part.ndim) if whole.shape[axis] != part.shape[axis]]
        if len(differs) > 1:
            return None
        for axis in differs:
            found[number] = axis
        valid = whole.narrow(differs[0], 0, time - 1) if differs else whole
        if not _same(valid, part):
            return None
    return found


def _same(padded: Tensor, exact: Tensor) -> bool:
    largest = float(exact.abs().max()) if exact.numel() else 0.0
    return float((padded.double() - exact.double()).abs().max()) <= CLOSE * largest


def _random(example: Tensor, generator: torch.Generator) -> Tensor:
    if not example.is_floating_point():
        return example
    return torch.randn(example.shape, generator=generator).to(example.dtype)
