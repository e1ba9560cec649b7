"""What a file changes on purpose, of the model that it is checked against."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from bnlstm_deploy.errors import VerificationError
from bnlstm_deploy.exporting.export import approximation_of
from bnlstm_deploy.folding import FoldedDirection, fold
from bnlstm_deploy.folding.approximate import Approximation
from bnlstm_deploy.folding.calibrate import LARGEST, Calibrated, Levels, levels_in_file
from bnlstm_deploy.metadata import Metadata
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.verification.diagnosis.places import find_arrays


def approximation_in(model: nn.Module, proto: onnx.ModelProto, metadata: Metadata) -> Approximation:
    """Return what a file changes of a model's fold.

    Of weights that data were used for it is what the file holds, as far as each is next to the
    model's; others are those that are nearest, which the file then does not hold.
    """
    approximation = approximation_of(metadata)
    if not metadata.calibrated:
        return approximation
    try:
        places = find_arrays(model, proto)
    except VerificationError:
        return approximation  # of another model: that is found elsewhere
    plain = Approximation(metadata.merge_tolerance)
    folds = {
        path: plain.apply(fold(module))
        for path, module in model.named_modules()
        if isinstance(module, BNLSTM)
    }
    arrays = {entry.name: numpy_helper.to_array(entry) for entry in proto.graph.initializer}
    found: dict[str, Calibrated] = {}
    for place, names in places.items():
        direction = folds[place.path].layers[place.layer][int(place.reverse)]
        own = {name: arrays[label] for name, label in names.items() if label in arrays}
        levels = LARGEST if metadata.activations else 1
        ih = _levels(direction, own, "weight_ih", "input_scale", 1)
        hh = _levels(direction, own, "weight_hh", "hidden_scale", levels)
        if ih is not None and hh is not None:
            found[place.path + place.suffix] = Calibrated(ih, hh)
    return approximation._replace(calibrated=found)


def _levels(
    direction: FoldedDirection,
    own: Mapping[str, NDArray[Any]],
    weight: str,
    scale: str,
    levels_of_h: int,
) -> Levels | None:
    """Return a weight as a file has it; None if it is none of the direction's."""
    exact, of_model = getattr(direction, weight), getattr(direction, scale)[direction.rows]
    if not own.keys() >= {weight, scale} or own[weight].shape != exact.shape:
        return None
    of_file = own[scale].astype(np.float64) * levels_of_h
    rows = own.get("rows", np.arange(len(of_file)))
    if of_file.shape[1] != of_model.shape[1] or not 0 <= rows.max(initial=0) < len(of_file):
        return None
    of_file = of_file[rows[np.minimum(np.arange(len(of_model)), len(rows) - 1)]]
    largest = np.abs(of_model).argmax(axis=0)[None]  # where the scale says most
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.take_along_axis(of_file, largest, 0) / np.take_along_axis(of_model, largest, 0)
    return levels_in_file(exact, own[weight].astype(np.float64), ratio[0])
