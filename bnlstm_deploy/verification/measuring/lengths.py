"""Which inputs of a model of one's own are the valid timesteps of its streams."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bnlstm_deploy.exporting.lifted import recurrent_modules


def find_lengths(model: nn.Module, inputs: Sequence[Tensor]) -> tuple[int, ...]:
    """Find the inputs that a model passes to its BNLSTM as `lengths`, by running it.

    Args:
        model: The model. It is copied, not changed.
        inputs: Arguments of its forward.

    Returns:
        The numbers of these inputs: integers (N,) that arrive as they are, or converted.
    """
    model = copy.deepcopy(model).eval().to("cpu", torch.float64)
    passed: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module, args
        if kwargs.get("lengths") is not None:
            passed.append(kwargs["lengths"].long())

    for module in recurrent_modules(model).values():
        module.register_forward_pre_hook(keep, with_kwargs=True)
    given = [x.detach().to("cpu", torch.float64 if x.is_floating_point() else None) for x in inputs]
    with torch.inference_mode():
        model(*given)
    return tuple(
        number
        for number, x in enumerate(given)
        if not x.is_floating_point() and any(torch.equal(x.long(), lengths) for lengths in passed)
    )
