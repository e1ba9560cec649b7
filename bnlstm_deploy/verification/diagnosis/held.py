"""The folded model with the arrays of a file in the place of its own."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from bnlstm_deploy.exporting.export import approximation_of, fold_layers
from bnlstm_deploy.exporting.folded_module import FoldedBNLSTM
from bnlstm_deploy.exporting.lifted import recurrent_modules
from bnlstm_deploy.signature import Array
from bnlstm_deploy.verification.diagnosis.arrays import FileArrays
from bnlstm_deploy.verification.diagnosis.narrowing import num_streams
from bnlstm_deploy.verification.measuring.process import Graph
from bnlstm_deploy.verification.measuring.trial import TorchModel


def run_arrays(
    model: nn.Module, graph: Graph, feeds: Mapping[str, Array], arrays: FileArrays
) -> dict[str, Array]:
    """Run the fold of a model in float64, with what a file holds in its place.

    Args:
        model: The training model.
        graph: The deployed graph, for its names and metadata.
        feeds: Inputs by name.
        arrays: What the file holds.

    Raises:
        FoldError: The model cannot be folded.
    """
    folded = fold_layers(model, torch.float64, approximation_of(graph.metadata))
    for path, module in recurrent_modules(folded).items():
        assert isinstance(module, FoldedBNLSTM)
        layers = [list(layer) for layer in module.folded.layers]
        for place, direction in arrays.directions.items():
            if place.path == path:
                layers[place.layer][int(place.reverse)] = direction
        module.folded = replace(module.folded, layers=tuple(map(tuple, layers)))
    defaults: dict[str, Array] = {}
    for name, value in arrays.defaults.items():
        axis, streams = graph.signature.batch_axes[name], num_streams(graph, feeds)
        repeats = 1 if value.shape[axis] == streams else streams
        defaults[name] = value.repeat(repeats, axis)  # a copy: that of a file cannot be written to
    others = {name: torch.from_numpy(value.copy()) for name, value in arrays.others.items()}
    folded.load_state_dict(others, strict=False)
    torch_model = TorchModel(folded, graph, torch.float64)
    return torch_model.run({**defaults, **feeds})
