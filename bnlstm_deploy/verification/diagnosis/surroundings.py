"""What a model does around its recurrent layers, computed from a graph's own recurrent values."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnlstm_deploy.signature import Array
from bnlstm_deploy.verification.diagnosis.places import bnlstms
from bnlstm_deploy.verification.measuring.process import Graph
from bnlstm_deploy.verification.measuring.trial import TorchModel

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Call:
    """What a model passes to one of its BNLSTM."""

    x: Floats
    """(T, N, D)."""
    h: Floats
    """(num_layers * num_directions, N, H)."""
    c: Floats
    lengths: NDArray[np.int64]
    """(N,)."""
    step: NDArray[np.int64]
    """(N,)."""


@dataclass(frozen=True)
class RecurrentOutputs:
    """What a graph's own nodes gave for one BNLSTM."""

    output: Array
    """(T, N, num_directions * H)."""
    h: Array
    """(num_layers * num_directions, N, H)."""
    c: Array


class Surroundings:
    """The training model, its BNLSTM giving what the graph's gave.

    So every input of a BNLSTM, and every output of the model, is what the rest of the model makes
    of the graph's own values: an error in them comes from that rest.

    Args:
        model: The training model; it is copied.
        graph: The graph, for its names and layers.
        dtype: In which to compute.
    """

    def __init__(self, model: nn.Module, graph: Graph, dtype: torch.dtype) -> None:
        model = copy.deepcopy(model)
        self._calls: dict[str, Call] = {}
        self._left: Mapping[str, RecurrentOutputs] = {}
        # Around TorchModel's own hooks: they are to see the graph's states, and to be seen.
        for path, module in bnlstms(model).items():
            module.register_forward_hook(self._give(path))
        self._torch = TorchModel(model, graph, dtype)
        for path, module in bnlstms(model).items():
            module.register_forward_pre_hook(self._note(path), with_kwargs=True)

    def run(
        self, feeds: Mapping[str, Array], left: Mapping[str, RecurrentOutputs]
    ) -> tuple[dict[str, Call], dict[str, Array]]:
        """Run the model.

        Args:
            feeds: Inputs by the graph's names.
            left: What the graph's own nodes gave, by the path of the BNLSTM.

        Returns:
            What each BNLSTM is called with, and the outputs by the graph's names.
        """
        self._left = left
        outputs = self._torch.run(feeds)
        return dict(self._calls), outputs

    def _give(self, path: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], result: Any) -> Any:  # noqa: ANN401
            del args
            left, like = self._left[path], result[0]
            output = torch.from_numpy(left.output).to(like.dtype)
            if getattr(module, "batch_first", False):
                output = output.transpose(0, 1)
            state = tuple(torch.from_numpy(part).to(like.dtype) for part in (left.h, left.c))
            return output, state

        return hook

    def _note(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            names = ("input", "state")
            given = dict(zip(names, args, strict=False)) | kwargs
            self._calls[path] = _call(module, **given)

        return hook


def _call(
    module: Any,  # noqa: ANN401
    input: Tensor,
    state: tuple[Tensor, Tensor] | None = None,
    lengths: Tensor | None = None,
    step: int | Tensor = 0,
) -> Call:
    x = input.transpose(0, 1) if module.batch_first else input
    time, batch = x.shape[:2]
    rows = module.num_layers * module.num_directions
    h, c = module.initial_state(batch) if state is None else state
    ends = torch.full((batch,), time) if lengths is None else lengths.clamp(max=time)
    return Call(
        x=x.double().numpy(),
        h=h.expand(rows, batch, -1).double().numpy(),
        c=c.expand(rows, batch, -1).double().numpy(),
        lengths=ends.expand(batch).numpy(),
        step=torch.as_tensor(step).expand(batch).numpy(),
    )
