"""How a drawing becomes a model's input: the optional file `MODEL.page.json` beside `MODEL.onnx`.

With it the server's page offers to draw by hand what the model reads, and names its answers:

    {
      "kind": "drawing",
      "subject": "digit",
      "size": [8, 8],
      "margin": 0,
      "pen": 1.4,
      "paper": 0.0,
      "ink": 1.0,
      "order": [26, 48, 18, ...],
      "labels": ["0", "1", "2", ...]
    }

A drawing is scaled, keeping its proportions, until it fills `size` (rows, columns) up to `margin`
pixels at each side; lines are `pen` pixels wide. A pixel's coverage, from 0 to 1, becomes a value
between `paper` and `ink`. `order` lists the pixels, numbered row by row, as the model reads them:
the sequence has rows * columns / D timesteps of D features, D being the model's own. `labels` name
the last axis of the model's first output, whose softmax are their probabilities.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bnlstm_deploy.codec import read_json
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.signature import Value


@dataclass(frozen=True)
class Drawing:
    """The content of `MODEL.page.json`; the module's docstring says what it means."""

    subject: str
    size: tuple[int, int]
    margin: float
    pen: float
    paper: float
    ink: float
    order: tuple[int, ...]
    labels: tuple[str, ...]
    kind: Literal["drawing"] = "drawing"


def path_of(model: Path) -> Path:
    """Return where the description of a model's drawings would be."""
    return model.with_suffix(".page.json")


def read_drawing(model: Path, inputs: Sequence[Value], outputs: Sequence[Value]) -> Drawing | None:
    """Read the description beside a model.

    Args:
        model: The ONNX file.
        inputs: The model's inputs, the one that is drawn first.
        outputs: The model's outputs, the one that is labelled first.

    Returns:
        The description; None if there is no such file.

    Raises:
        InputError: The file is not valid, or does not fit the model.
    """
    path = path_of(model)
    if not path.exists():
        return None
    try:
        drawing = read_json(path, Drawing, InputError)
        _check(drawing, inputs[0], outputs[0])
    except ValueError as error:
        raise InputError(f"{error}. Correct {path}, or remove it") from error
    return drawing


def _check(drawing: Drawing, read: Value, answered: Value) -> None:
    """Check the values, and that they fit the model.

    Raises:
        InputError: They do not.
    """
    if len(drawing.size) != 2 or min(drawing.size) < 1:
        raise InputError(f"'size' is {list(drawing.size)}; write the rows and columns")
    pixels = math.prod(drawing.size)
    if sorted(drawing.order) != list(range(pixels)):
        raise InputError(
            f"'order' has {len(drawing.order)} entries; a drawing of {drawing.size[0]} x "
            f"{drawing.size[1]} pixels needs each of 0 to {pixels - 1} once"
        )
    if drawing.pen <= 0 or drawing.margin < 0:
        raise InputError(
            f"'pen' is {drawing.pen:g} and 'margin' {drawing.margin:g}; a pen is wider than 0, and "
            "a margin at least 0"
        )
    if 2 * drawing.margin + drawing.pen >= min(drawing.size):
        raise InputError(
            f"'margin' {drawing.margin:g} at both sides and 'pen' {drawing.pen:g} leave no room in "
            f"{min(drawing.size)} pixels"
        )
    features = read.shape[-1]
    if len(read.shape) != 3 or not isinstance(features, int) or pixels % features:
        raise InputError(
            f"the model's input {read.name!r} has the shape {list(read.shape)}; {pixels} pixels "
            "need three axes, of which the last divides them"
        )
    if answered.shape[-1] != len(drawing.labels):
        raise InputError(
            f"'labels' are {len(drawing.labels)}; the model's output {answered.name!r} has "
            f"{answered.shape[-1]} values"
        )
