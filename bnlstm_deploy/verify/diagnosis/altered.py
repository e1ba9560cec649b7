"""The folded model with other layers than its own: with a mistake in them, or those of a file."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from numpy.typing import DTypeLike
from torch import nn

from bnlstm_deploy.export.folded import FoldedBNLSTM
from bnlstm_deploy.export.lifted import recurrent_modules
from bnlstm_deploy.export.model import fold_layers
from bnlstm_deploy.fold import FoldedDirection, FoldedLSTM
from bnlstm_deploy.runtime.inputs import Array
from bnlstm_deploy.verify.axes import input_batch_axes
from bnlstm_deploy.verify.diagnosis.arrays import FileArrays
from bnlstm_deploy.verify.diagnosis.narrowing import num_streams
from bnlstm_deploy.verify.diagnosis.places import Place
from bnlstm_deploy.verify.process import Graph
from bnlstm_deploy.verify.run import TorchModel

Folds = Mapping[str, FoldedLSTM]
"""The layers of each BNLSTM, by its path."""


class AlteredModel:
    """The folded model in numpy, with layers that can be exchanged, in the model around them.

    Args:
        model: The training model.
        graph: The deployed graph, for its names and metadata.
        dtype: In which to compute.
    """

    def __init__(self, model: nn.Module, graph: Graph, dtype: torch.dtype) -> None:
        self.model = fold_layers(model, dtype, graph.metadata.merge_tolerance)
        self.modules: dict[str, FoldedBNLSTM] = {
            path: module
            for path, module in recurrent_modules(self.model).items()
            if isinstance(module, FoldedBNLSTM)
        }
        self.folds: Folds = {path: module.folded for path, module in self.modules.items()}
        self._graph = graph
        self._dtype = torch.empty(0, dtype=dtype).numpy().dtype
        self._torch = TorchModel(self.model, graph.metadata.layers, graph, dtype)

    def run(self, feeds: Mapping[str, Array], folds: Folds | None = None) -> dict[str, Array]:
        """Run the model with other layers in some of its BNLSTM."""
        for path, module in self.modules.items():
            fold = (folds or {}).get(path, self.folds[path])
            module.folded = _rounded(fold, self._dtype)
        return self._torch.run(feeds)

    def run_file(self, feeds: Mapping[str, Array], arrays: FileArrays) -> dict[str, Array]:
        """Run the model with the arrays of a file in the place of its own."""
        defaults: dict[str, Array] = {}
        for name, value in arrays.defaults.items():
            axis, streams = self._streams(name, feeds)
            defaults[name] = value if value.shape[axis] == streams else value.repeat(streams, axis)
        state = {name: torch.from_numpy(value.copy()) for name, value in arrays.others.items()}
        kept = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(state, strict=False)
        try:
            return self.run({**defaults, **feeds}, exchanged(self.folds, arrays.directions))
        finally:
            self.model.load_state_dict(kept)

    def _streams(self, name: str, feeds: Mapping[str, Array]) -> tuple[int, int]:
        """The axis of the streams of an optional input, and N."""
        return input_batch_axes(self._graph)[name], num_streams(self._graph, feeds)


def exchanged(folds: Folds, changed: Mapping[Place, FoldedDirection]) -> Folds:
    """Return the layers of the BNLSTM in which directions are exchanged, with these."""
    result: dict[str, FoldedLSTM] = {}
    for place, direction in changed.items():
        layers = [list(layer) for layer in result.get(place.path, folds[place.path]).layers]
        layers[place.layer][int(place.reverse)] = direction
        result[place.path] = FoldedLSTM(tuple(map(tuple, layers)))
    return result


def _rounded(fold: FoldedLSTM, dtype: DTypeLike) -> FoldedLSTM:
    """Round the arrays; how the layers are run stays as it is."""
    layers = tuple(tuple(direction.astype(dtype) for direction in layer) for layer in fold.layers)
    return replace(fold, layers=layers)
