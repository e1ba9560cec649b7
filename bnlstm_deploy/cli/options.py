"""Arguments that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bnlstm_deploy.runtime.providers import Provider


class HeadPooling(StrEnum):
    """What a head reads."""

    last = "last"
    every = "every"


_CHECKPOINT = typer.Argument(
    metavar="CHECKPOINT",
    help="A folder with config.json and model.safetensors, a state dict (.safetensors, .pt), or "
    "arrays (.npz).",
    show_default=False,
)
Checkpoint = Annotated[Path, _CHECKPOINT]
OptionalCheckpoint = Annotated[Path | None, _CHECKPOINT]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="JSON",
        help="Configuration of a state dict.",
        show_default="config.json beside it",
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(
        "--layout",
        metavar="NAME|TOML",
        help="What the keys of other code's checkpoint mean.",
        show_default="the one that matches",
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        help="What precedes the keys of other code's recurrent layers.",
        show_default="found",
    ),
]
Head = Annotated[
    HeadPooling | None,
    typer.Option(
        "--head",
        help="Keep the Linear beside other code's recurrent layers: it reads the last hidden "
        "state, or the output at every timestep.",
        show_default=False,
    ),
]
BatchFirst = Annotated[
    bool,
    typer.Option(
        "--batch-first",
        help="Other code's checkpoint: make input and output (N, T, .) instead of (T, N, .).",
    ),
]
Factory = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODULE:FACTORY",
        help="A model of your own that holds BNLSTM layers: a function of no arguments that "
        "returns it. CHECKPOINT is its state dict.",
        show_default=False,
    ),
]
Inputs = Annotated[
    Path | None,
    typer.Option(
        "--inputs",
        metavar="X.npz",
        help="Example arguments of --model's forward, as arrays of those names, with a batch and "
        "a time of at least 2.",
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
        help="Execution providers in order of preference, such as cpu, or with options "
        "cuda:device_id=1:memory_limit=2GB,cpu. One that cannot be used is an error.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        help="Threads inside an operator.",
        show_default="one a core",
    ),
]
Native = Annotated[
    bool,
    typer.Option(
        " /--no-native",
        help="Take the function body in standard operators, not the native kernel for CPUs.",
        show_default=False,
    ),
]
JsonReport = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Also write the result here.", show_default=False),
]


def split(providers: str) -> "list[Provider]":
    """Return the providers in a comma-separated list, with their options."""
    from bnlstm_deploy.runtime.providers import parse_providers

    return parse_providers(providers)
