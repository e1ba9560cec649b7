"""bnlstm-deploy deploy: exported files on other servers and on clusters."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnlstm_deploy.atomic import check_free_folder, check_writable, replacing
from bnlstm_deploy.cli.console import make_console
from bnlstm_deploy.cli.deploy_ray import ray
from bnlstm_deploy.cli.options import Force, Model, Native, Threads, grouped
from bnlstm_deploy.deploy.names import check_name
from bnlstm_deploy.deploy.triton_config import Backend, Instance, Options, Strategy
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.extras import require

if TYPE_CHECKING:
    from bnlstm_deploy.deploy.interface import Interface

DEFAULT = Options()
BATCHES, STREAMS = "Batches", "Streams"

deploy = typer.Typer(
    name="deploy",
    help="Deploy exported files on other servers and on clusters.",
    no_args_is_help=True,
)
deploy.command("ray", no_args_is_help=True)(grouped(ray))

Name = Annotated[
    str | None, typer.Option(help="The model's name.", show_default="that of the file")
]


@dataclass(frozen=True)
class TritonOptions:
    """The options of `bnlstm_deploy.deploy.triton_config.Options`."""

    backend: Annotated[
        Backend,
        typer.Option(
            help="What runs it: Triton's ONNX Runtime, or its Python with onnxruntime installed."
        ),
    ] = DEFAULT.backend
    strategy: Annotated[
        Strategy,
        typer.Option(
            help="oldest: any ready streams make a batch. direct: each stream has its own place "
            "in the batch, so there are --max-batch of them.",
            rich_help_panel=STREAMS,
        ),
    ] = DEFAULT.strategy
    max_sequences: Annotated[
        int, typer.Option(help="Streams at a time in each instance.", rich_help_panel=STREAMS)
    ] = DEFAULT.max_sequences
    sequence_idle: Annotated[
        float,
        typer.Option(
            help="Seconds without a chunk until one is forgotten.", rich_help_panel=STREAMS
        ),
    ] = DEFAULT.sequence_idle
    max_batch: Annotated[int, typer.Option(help="Streams in one run.", rich_help_panel=BATCHES)] = (
        DEFAULT.max_batch
    )
    preferred_batches: Annotated[
        list[int] | None,
        typer.Option(
            "--preferred-batch",
            help="A batch that waits for no others; repeatable.",
            rich_help_panel=BATCHES,
        ),
    ] = None
    max_wait: Annotated[
        float,
        typer.Option(help="Seconds that a request waits for others.", rich_help_panel=BATCHES),
    ] = DEFAULT.max_wait
    instance: Annotated[Instance, typer.Option(help="Where an instance of the model runs.")] = (
        DEFAULT.instance
    )
    instances: Annotated[
        int, typer.Option(help="How many there are, on each GPU if they run there.")
    ] = DEFAULT.instances
    threads: Threads = None


@deploy.command("triton", no_args_is_help=True)
@grouped
def triton(
    model: Model,
    repository: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="The model repository, into which the model's folder goes.",
        ),
    ],
    options: TritonOptions,
    name: Name = None,
    sequence: Annotated[
        bool | None,
        typer.Option(
            "--sequence/--no-sequence",
            help="Streams, whose states Triton keeps, or whole sequences.",
            show_default="streams, if the file can continue them",
            rich_help_panel=STREAMS,
        ),
    ] = None,
    lengths: Annotated[
        bool,
        typer.Option(
            "--lengths",
            help="Clients pad to a common time, and pass the valid timesteps as `lengths` (N, 1).",
            rich_help_panel=BATCHES,
        ),
    ] = False,
    native: Native = True,
    native_library: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Where Triton's ONNX Runtime finds the native kernel's library, which is written "
            "beside model.onnx: /models/NAME/1/libbnlstm.so for a repository that a container has "
            "as /models.",
            show_default="its path here",
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Write a model repository for Triton Inference Server.

    Example: bnlstm-deploy deploy triton digits.onnx -o repository
    """
    from bnlstm_deploy.deploy.interface import describe
    from bnlstm_deploy.deploy.triton import find_kernel, server_path, write_repository
    from bnlstm_deploy.deploy.triton_config import configuration
    from bnlstm_deploy.runtime import Session

    preferred = tuple(options.preferred_batches or ())
    chosen = Options(**{**vars(options), "preferred_batches": preferred})
    session = Session(model, native=native)
    if sequence is None:
        sequence = session.signature.streams
    interface = describe(session, sequence=sequence, lengths=lengths)
    name = check_name(model.stem if name is None else name)
    kernel = find_kernel(session, chosen.instance, native=native)
    library = None
    if kernel.library is not None:
        library = server_path(kernel.library, repository, name, chosen.backend, native_library)
    elif native_library is not None:
        raise InputError(
            f"--native-library is given, and what runs is the {kernel}; leave the option out"
        )
    fields = configuration(name, interface, session.metadata, chosen, library=library)

    def save(destination: Path) -> None:
        if chosen.backend == "python":
            shutil.copyfile(model, destination)
        else:
            _save_batch_first(model, destination, interface)

    check_free_folder(repository / name, force=force, inputs=(model,))
    folder = write_repository(
        repository, fields, interface, save, library=kernel.library, force=force
    )
    kind = "streams" if sequence else "whole sequences"
    how = f"{chosen.backend} backend: {kind}, {kernel}"
    make_console().print(f"Wrote {folder} for Triton's {how}")


@dataclass(frozen=True)
class ServiceOptions:
    """Fields of `bnlstm_deploy.deploy.kserve.Service`."""

    storage_uri: Annotated[
        str,
        typer.Option(
            metavar="URI",
            help="The folder that the file is in for the cluster: pvc://CLAIM/FOLDER, "
            "s3://BUCKET/FOLDER, ...",
        ),
    ]
    image: Annotated[
        str, typer.Option(help="A container image made by the Dockerfile of this project.")
    ]
    min_replicas: Annotated[int, typer.Option(help="The least servers.")] = 1
    max_replicas: Annotated[int, typer.Option(help="The most servers.")] = 1
    cpu: Annotated[str, typer.Option(help="Cores of a server.")] = "1"
    memory: Annotated[str, typer.Option(help="Memory of a server.")] = "1Gi"
    gpus: Annotated[int, typer.Option(help="GPUs of a server.")] = 0
    native: Native = True
    token_secret: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The Kubernetes secret whose key `token` is the bearer token that requests must "
            "carry.",
            show_default="none, everybody who reaches the pod may use it",
        ),
    ] = None


@deploy.command("kserve", no_args_is_help=True)
@grouped
def kserve(
    model: Model,
    options: ServiceOptions,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The manifest.", show_default="standard output"
        ),
    ] = None,
    name: Name = None,
    force: Force = False,
) -> None:
    """Write an InferenceService manifest for KServe, which runs `bnlstm-deploy serve`.

    Example: bnlstm-deploy deploy kserve digits.onnx --storage-uri pvc://models/digits --image
    registry.example/bnlstm-deploy -o digits.yaml
    """
    from bnlstm_deploy.deploy.kserve import Service, manifest
    from bnlstm_deploy.runtime import Session

    # What is not an exported file of this package is refused here, not in a cluster.
    session = Session(model, native=options.native)
    name = model.stem if name is None else name
    service = Service(name=name, file=model.name, **vars(options))
    if output is None:
        typer.echo(manifest(service), nl=False)
        return
    check_writable(output, force=force, inputs=(model,))
    with replacing(output, force=force) as temporary:
        temporary.write_text(manifest(service), encoding="utf-8")
    make_console().print(f"Wrote {output}; on a CPU like this one: {session.native}")


def _save_batch_first(model: Path, destination: Path, interface: "Interface") -> None:
    for module in ("onnx", "onnx_ir"):
        require(module, extra="triton")
    from bnlstm_deploy.batch_first import Port, batch_first

    inputs = [*interface.inputs, *(carried.input for carried in interface.carried)]
    outputs = [*interface.outputs, *(carried.output for carried in interface.carried)]
    batch_first(
        model,
        destination,
        [Port(tensor.graph_name, tensor.name, tensor.axis) for tensor in inputs],
        [Port(tensor.graph_name, tensor.name, tensor.axis) for tensor in outputs],
    )
