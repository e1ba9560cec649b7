"""Running what is compared: torch models by the names of a graph, and anything in chunks."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bnlstm_deploy.export.lifted import Lifted
from bnlstm_deploy.metadata import CARRIED, RecurrentLayers
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.runtime.inputs import Array, Value
from bnlstm_deploy.verify.cases import Case

TIME = "time"
"""The name of the time axis in graphs."""


class TorchModel:
    """A torch model that is run like a `Session`: arrays by the graph's names.

    Args:
        model: The model, changed in place: put into evaluation, on the CPU and into `dtype`.
        layers: Its recurrent layers.
        session: The graph, for its names.
        dtype: In which to compute.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[RecurrentLayers],
        session: Session,
        dtype: torch.dtype,
    ) -> None:
        self.lifted = Lifted(model.eval().to("cpu", dtype), layers)
        self.dtype = dtype
        self.inputs = [value.name for value in session.inputs]
        self.outputs = [value.name for value in session.outputs]
        self.state_outputs = [value.name for value in session.state_outputs]
        self.start_steps = [
            value.name for value in session.state_inputs if value.name.endswith("start_step")
        ]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model: arrays by input name to arrays by output name."""
        tensors = {name: self._tensor(array) for name, array in feeds.items()}
        for name in self.start_steps:  # without one, Lifted leaves no next step behind
            tensors.setdefault(name, torch.zeros((), dtype=torch.int64))
        with torch.inference_mode():
            outputs, left = self.lifted(tuple(tensors[name] for name in self.inputs), tensors)
        results = dict(zip(self.outputs, outputs, strict=True))
        results |= {name: left[name] for name in self.state_outputs}
        return {name: tensor.numpy() for name, tensor in results.items()}

    def _tensor(self, array: Array) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor


def run_chunks(
    run: Callable[[Mapping[str, Array]], dict[str, Array]],
    session: Session,
    case: Case,
    feeds: Mapping[str, Array],
) -> dict[str, Array]:
    """Run in the case's chunks, carry the states, and join the outputs over time.

    Outputs without a time axis are those of the last chunk.
    """
    pieces: list[dict[str, Array]] = []
    state: dict[str, Array] = {}
    start = 0
    for length in case.chunks:
        part = {
            value.name: _slice(feeds[value.name], value, start, start + length)
            for value in session.inputs
        }
        results = run(part | state)
        pieces.append(results)
        state = {
            entry.value_name(into): results[entry.value_name(out)]
            for entry in session.metadata.layers
            for into, out in CARRIED.items()
        }
        start += length
    joined = dict(pieces[-1])
    for value in session.outputs:
        if TIME in value.shape:
            parts = [piece[value.name] for piece in pieces]
            joined[value.name] = np.concatenate(parts, axis=value.shape.index(TIME))
    return joined


def _slice(array: Array, value: Value, start: int, stop: int) -> Array:
    if TIME not in value.shape:
        return array
    return array.take(np.arange(start, stop), axis=value.shape.index(TIME))
