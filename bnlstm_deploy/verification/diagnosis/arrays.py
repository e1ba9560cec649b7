"""The arrays of a file, one by one against the fold that it should hold."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from bnlstm_deploy.dtypes import EPS
from bnlstm_deploy.errors import FoldError
from bnlstm_deploy.exporting.folded_module import FoldedBNLSTM
from bnlstm_deploy.folding import FoldedDirection
from bnlstm_deploy.folding.calibrate import LARGEST
from bnlstm_deploy.folding.folded import FLOATS
from bnlstm_deploy.metadata import NO_LENGTH, Metadata
from bnlstm_deploy.verification.diagnosis.places import ARRAYS, Place, bnlstms
from bnlstm_deploy.verification.measuring.approximation import approximation_in

Values = NDArray[np.generic]

SHOWN_ROWS = 16
"""Rows that are named of an array that differs."""

ULPS = 2
"""Units in the last place that are no difference: those of another machine's square root."""


@dataclass(frozen=True)
class ArrayDifference:
    """An array of the file that is not what the fold of the model gives."""

    name: str
    """In the file: `rnn.bias_l0_reverse`."""
    layer: str
    """The layer and direction that it belongs to; empty for others, such as a head's."""
    elements: int
    """That differ; all of them if the array is missing or has another shape."""
    size: int
    rows: tuple[int, ...]
    """The first 16 rows, along the first axis, with an element that differs."""
    num_rows: int
    """How many such rows there are."""
    index: tuple[int, ...]
    """Of the first element that differs."""
    expected: float
    """The element there; 0 if the array is missing or has another shape."""
    actual: float
    relative: float
    """The largest difference, relative to the expected element; infinite if that is 0."""
    note: str = ""
    """What else is wrong: another shape, not there at all."""

    def __str__(self) -> str:
        if self.note:
            return f"{self.name}: {self.note}"
        where = ", ".join(map(str, self.index))
        return (
            f"{self.name}: {self.elements} of {self.size} elements differ, in {self.num_rows} rows;"
            f" the first at [{where}] is {self.actual:.7g} instead of {self.expected:.7g}"
        )


@dataclass(frozen=True)
class FileArrays:
    """What a file holds in the place of the model's parameters."""

    directions: Mapping[Place, FoldedDirection]
    """In float64; without those that are damaged."""
    defaults: Mapping[str, Values]
    """Of the optional inputs that have a wrong one, by the graph's names."""
    others: Mapping[str, Values]
    """Parameters of the rest of the model that differ, by their names in its state dict."""


def compare_arrays(
    model: nn.Module,
    proto: onnx.ModelProto,
    metadata: Metadata,
    arrays: Mapping[Place, Mapping[str, str]],
) -> tuple[tuple[ArrayDifference, ...], FileArrays]:
    """Compare the arrays of a file with the fold rounded to the file's dtype.

    Args:
        model: The training model.
        proto: The file.
        metadata: Its metadata.
        arrays: What the file calls the arrays of each layer and direction, by the operator's
            inputs.

    Returns:
        The arrays that differ by more than 2 ULP, and what the file holds.

    Raises:
        FoldError: The model cannot be folded.
    """
    held = {entry.name: numpy_helper.to_array(entry) for entry in proto.graph.initializer}
    dtype = getattr(torch, metadata.dtype)
    differences: list[ArrayDifference] = []
    directions: dict[Place, FoldedDirection] = {}
    defaults: dict[str, Values] = {}
    used: set[str] = set()
    modules = bnlstms(model)
    approximation = approximation_in(model, proto, metadata)
    folds = {
        path: FoldedBNLSTM(module, dtype, approximation=approximation, path=path)
        for path, module in modules.items()
    }
    for place, inputs in arrays.items():
        expected = _arrays_of(folds[place.path], place)
        for name in ARRAYS:
            given = held.get(inputs.get(name, ""))
            used.add(inputs.get(name, ""))
            label = inputs.get(name) or place.array_name(name)
            if given is not None or name in expected:
                differences += _differences(label, str(place), expected.get(name), given)
        levels = LARGEST if metadata.activations else 0
        direction = _direction(held, inputs, levels)
        if direction is not None:
            directions[place] = direction
    for entry, fold in zip(metadata.layers, folds.values(), strict=True):
        for kind, value in _defaults(fold).items():
            name = entry.value_name(kind)
            if name in held:
                found = list(_differences(name, "", value, held[name]))
                differences += found
                defaults |= {name: held[name]} if found else {}
        states = [entry.value_name(kind) for kind in ("initial_h", "initial_c")]
        if defaults.keys() & states:  # one is not taken without the other
            defaults |= {name: held[name] for name in states}
    others: dict[str, Values] = {}
    for name, tensor in model.state_dict().items():
        given = held.get(name)
        if name in used or given is None or given.shape != tuple(tensor.shape):
            continue
        found = list(_differences(name, "", tensor.cpu().numpy().astype(given.dtype), given))
        differences += found
        others |= {name: given} if found else {}
    return tuple(differences), FileArrays(directions, defaults, others)


def _arrays_of(fold: FoldedBNLSTM, place: Place) -> dict[str, Values]:
    """The arrays that an export writes for a place: those of no effect are left out."""
    buffers = dict(fold.named_buffers())
    names = [name for name in ARRAYS if name + place.suffix in buffers]
    wide = {name: buffers[name + place.suffix] for name in names}
    return {
        name: (t.float() if t.dtype == torch.bfloat16 else t).numpy()  # numpy has no bfloat16
        for name, t in wide.items()
    }


def _defaults(fold: FoldedBNLSTM) -> dict[str, Values]:
    return {
        "initial_h": fold.initial_h.numpy(),
        "initial_c": fold.initial_c.numpy(),
        "lengths": np.array([NO_LENGTH]),
        "start_step": np.array([0]),
    }


def _direction(
    held: Mapping[str, Values], inputs: Mapping[str, str], h_levels: int
) -> FoldedDirection | None:
    """Return the fold that the arrays of a node are; None if they are none."""
    arrays = {n: held[inputs[n]] for n in ARRAYS if inputs.get(n, "") in held}
    if not {"weight_ih", "weight_hh", "bias"} <= arrays.keys():
        return None
    rows, gates = arrays["bias"].shape
    blanks = {
        "input_scale": np.ones((rows, gates)),
        "hidden_scale": np.ones((rows, gates)),
        "cell_scale": np.ones((rows, gates // 4)),
        "cell_shift": np.zeros((rows, gates // 4)),
        "rows": np.arange(rows),
    }
    arrays = {name: arrays.get(name, blanks.get(name)) for name in ARRAYS}  # type: ignore[misc]
    floats = {name: arrays[name].astype(np.float64) for name in FLOATS}
    try:
        return FoldedDirection(**floats, rows=arrays["rows"], h_levels=h_levels)  # type: ignore[arg-type]
    except FoldError:
        return None


def _differences(
    name: str, layer: str, expected: Values | None, actual: Values | None
) -> Iterator[ArrayDifference]:
    if expected is None or actual is None or expected.shape != actual.shape:
        there = expected if actual is None else actual
        assert there is not None
        note = "not among the initializers of the file" if actual is None else "should not be there"
        if expected is not None and actual is not None:
            note = f"has shape {actual.shape} instead of {expected.shape}"
        shown = tuple(range(len(there)))[:SHOWN_ROWS]
        yield ArrayDifference(
            name, layer, there.size, there.size, shown, len(there), (), 0.0, 0.0, np.inf, note
        )
        return
    wanted, given = expected.astype(np.float64), actual.astype(np.float64)
    allowed = 0.0
    if expected.dtype.kind == "f":
        allowed = ULPS * EPS[expected.dtype.name]
    with np.errstate(invalid="ignore"):
        differs = ~(np.abs(given - wanted) <= allowed * np.abs(wanted))
    if expected.dtype.kind == "i":  # float64 does not tell large ones apart
        differs = expected != actual
    if not differs.any():
        return
    index = tuple(int(i) for i in np.argwhere(differs)[0])
    rows = np.flatnonzero(differs.reshape(len(differs), -1).any(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.abs(given - wanted)[differs] / np.abs(wanted)[differs]
    yield ArrayDifference(
        name=name,
        layer=layer,
        elements=int(differs.sum()),
        size=differs.size,
        rows=tuple(int(row) for row in rows[:SHOWN_ROWS]),
        num_rows=len(rows),
        index=index,
        expected=float(wanted[index]),
        actual=float(given[index]),
        relative=float(relative.max()),
    )
