"""Arguments that several commands share, alone and in groups.

A group is a dataclass whose fields are options; `grouped` lets a command take one as an argument.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from bnlstm_deploy.access import TOKEN_VARIABLE
from bnlstm_deploy.choices import Pooling

if TYPE_CHECKING:
    from bnlstm_deploy.runtime import Session
    from bnlstm_deploy.runtime.providers import Provider


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose arguments that are groups are the options in them, for typer."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        own, defaults = {name: hints[name]}, {name: parameter.default}
        if is_dataclass(hints[name]):
            groups[name] = hints[name]
            own = get_type_hints(hints[name], include_extras=True)
            defaults = {
                field.name: inspect.Parameter.empty if field.default is MISSING else field.default
                for field in fields(hints[name])
            }
        parameters += [
            inspect.Parameter(
                n, inspect.Parameter.KEYWORD_ONLY, default=defaults[n], annotation=own[n]
            )
            for n in own
        ]

    @functools.wraps(command)
    def with_options(**given: Any) -> None:  # noqa: ANN401
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        command(**given)

    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_options


_CHECKPOINT = typer.Argument(
    metavar="CHECKPOINT",
    help="A folder with config.json and model.safetensors, a state dict (.safetensors, .pt), "
    "arrays (.npz), or hf:OWNER/NAME of the Hugging Face hub.",
)
Checkpoint = Annotated[Path, _CHECKPOINT]
OptionalCheckpoint = Annotated[Path | None, _CHECKPOINT]


@dataclass(frozen=True)
class Reading:
    """How a checkpoint is to be read."""

    config: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON",
            help="Configuration of a state dict.",
            show_default="config.json beside it",
        ),
    ] = None
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|TOML",
            help="What the keys of other code's checkpoint mean.",
            show_default="the one that matches",
        ),
    ] = None
    prefix: Annotated[
        str | None,
        typer.Option(
            help="What precedes the keys of other code's recurrent layers.", show_default="found"
        ),
    ] = None
    head: Annotated[
        Pooling | None,
        typer.Option(
            help="Keep the Linear beside other code's recurrent layers: it reads the last hidden "
            "state, or the output at every timestep."
        ),
    ] = None
    batch_first: Annotated[
        bool | None,
        typer.Option(
            "--batch-first/--time-major",
            help="Other code's checkpoint: input and output are (N, T, .), or (T, N, .).",
            show_default="time-major",
        ),
    ] = None

    @property
    def files(self) -> "tuple[Path | None, ...]":
        """The files that are read beside the checkpoint."""
        return self.config, None if self.layout is None else Path(self.layout)


@dataclass(frozen=True)
class OwnModel:
    """A whole model of the user's own, which holds BNLSTM layers."""

    factory: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODULE:FACTORY",
            help="A model of your own that holds BNLSTM layers: a function of no arguments that "
            "returns it. CHECKPOINT is its state dict.",
        ),
    ] = None
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="X.npz",
            help="Example arguments of --model's forward, as arrays of those names, with a batch "
            "and a time of at least 2.",
        ),
    ] = None


Host = Annotated[str, typer.Option(help="Address to listen on.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Bearer token that requests must carry.",
        show_default=f"{TOKEN_VARIABLE} of the environment, or none",
    ),
]
Model = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An exported file.")]
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
        "--threads", metavar="N", help="Threads inside an operator.", show_default="one a core"
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


@dataclass(frozen=True)
class Running:
    """What runs an exported file."""

    providers: Providers = "cpu"
    threads: Threads = None
    native: Native = True

    def open(self, model: Path) -> "Session":
        """Open a file."""
        from bnlstm_deploy.runtime import Session

        return Session(
            model,
            providers=split(self.providers),
            intra_op_num_threads=self.threads,
            native=self.native,
        )


def _limit(help: str, least: int = 0) -> Any:  # noqa: ANN401
    return typer.Option(min=least, help=help, rich_help_panel="Limits")


@dataclass(frozen=True)
class ServerLimits:
    """The limits of a server; their defaults are those of `bnlstm_deploy.serve.Limits`."""

    max_batch: Annotated[int, _limit("Streams in one run.", 1)] = 64
    max_wait: Annotated[float, _limit("Seconds that a request waits for others.")] = 0.002
    max_queue: Annotated[int, _limit("Requests waiting; one more is refused with 503.", 1)] = 1024
    max_time: Annotated[int, _limit("Timesteps of a request.", 1)] = 16384
    max_run: Annotated[
        int, _limit("Bytes that a run may take: inputs, outputs, and the graph's between.", 1)
    ] = 268_435_456
    timeout: Annotated[float, _limit("Seconds to an answer.")] = 30.0
    max_sequences: Annotated[int, _limit("Streams of sequences that are held.")] = 10_000
    sequence_idle: Annotated[float, _limit("Seconds without a chunk until one is dropped.")] = 60.0
    max_body: Annotated[int, _limit("Bytes of a request.", 1)] = 33_554_432
    max_json: Annotated[int, _limit("Bytes of JSON in a request or an answer.", 1)] = 16_777_216
    max_pending: Annotated[
        int, _limit("Bytes of all requests that are read, and that wait.", 1)
    ] = 268_435_456
    max_connections: Annotated[int, _limit("HTTP connections at a time.", 1)] = 4096


Budget = Annotated[
    float | None,
    typer.Option(
        help="How far merged rows and weights in fewer bits may move an output of the model: on "
        "--data, or on random inputs without any.",
        min=0,
        show_default="any distance",
    ),
]

JsonReport = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the result here.")
]


def split(providers: str) -> "list[Provider]":
    """Return the providers in a comma-separated list, with their options."""
    from bnlstm_deploy.runtime.providers import parse_providers

    return parse_providers(providers)
