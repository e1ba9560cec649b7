"""Arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A folder with config.json and model.safetensors, or a state dict (.safetensors, "
        ".pt).",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="JSON",
        help="Configuration of a state dict. [default: config.json beside it]",
        show_default=False,
    ),
]
Model = Annotated[
    Path, typer.Argument(metavar="MODEL.onnx", help="An exported file.", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
Providers = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Execution providers in order of preference, such as cpu or cuda,cpu. One that "
        "cannot be used is an error.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        help="Threads inside an operator. [default: one a core]",
        show_default=False,
    ),
]
JsonReport = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Also write the result here.", show_default=False),
]


def split(providers: str) -> list[str]:
    """Return the names in a comma-separated list."""
    return [name.strip() for name in providers.split(",") if name.strip()]
