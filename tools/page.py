"""Describe permuted digits to the server's page, so that a digit can be drawn there.

    python -m tools.page digits.onnx

writes digits.page.json beside the file (bnlstm_deploy/serve/drawing.py says what it holds).
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bnlstm_deploy.atomic import replacing
from bnlstm_deploy.serve.drawing import Drawing, path_of
from tools import digits

PEN = 1.4
"""Width of a line in pixels: drawn digits have about as much ink as the data set's, 19.5 pixels."""

app = typer.Typer(add_completion=False)


def drawing() -> Drawing:
    """Return how a drawn digit becomes a sequence of `tools.digits`."""
    return Drawing(
        subject="digit",
        size=(8, 8),
        margin=0.0,
        pen=PEN,
        paper=0.0,
        ink=1.0,
        order=tuple(digits.order().tolist()),
        labels=tuple(map(str, range(digits.CLASSES))),
    )


@app.command()
def main(
    model: Annotated[Path, typer.Argument(help="An export of models/permuted-digits.")],
) -> None:
    """Write MODEL.page.json, with which the server's page offers to draw a digit."""
    with replacing(path_of(model)) as temporary:
        temporary.write_text(json.dumps(asdict(drawing()), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
