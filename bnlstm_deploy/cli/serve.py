"""bnlstm-deploy serve."""

import os
import sys
from typing import Annotated

import typer

from bnlstm_deploy.access import read_token
from bnlstm_deploy.cli.options import Host, Running, ServerLimits, TokenFile, split
from bnlstm_deploy.download import is_hub_id, local
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.extras import require


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]MODEL.onnx...",
            help="Exported files, or folders of them: folder/*.onnx and "
            "folder/NAME/VERSION/*.onnx, or NAME=folder with folder/VERSION/*.onnx; or "
            "hf:OWNER/NAME, the file of a model on the Hugging Face hub.",
        ),
    ],
    running: Running,
    limits: ServerLimits,
    host: Host = "127.0.0.1",
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, help="REST, metrics and page; 0 for any.")
    ] = 8080,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC; 0 for any.")] = 8081,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that share the ports.")
    ] = 1,
    model_control: Annotated[
        bool,
        typer.Option("--model-control", help="Let clients load and unload models."),
    ] = False,
    token_file: TokenFile = None,
) -> None:
    """Serve exported files: Open Inference Protocol v2 over REST and gRPC, metrics and a page.

    Example: bnlstm-deploy serve digits.onnx --http-port 8080 --grpc-port 8081
    """
    if sys.platform == "win32":
        raise InputError(
            "the server needs signals and sockets of Unix, and this is Windows; run it in WSL or a "
            "container, or load files with bnlstm_deploy.Session in a server of your own"
        )
    require("tritonclient", extra="serve")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own log is no JSON
    from bnlstm_deploy.serve import Limits
    from bnlstm_deploy.serve.server import Options
    from bnlstm_deploy.serve.server import serve as run
    from bnlstm_deploy.serve.settings import Settings, local_names
    from bnlstm_deploy.serve.workers import serve_workers

    settings = Settings(Limits(**vars(limits)), read_token(token_file), local_names(host))
    options = Options(
        [_found(model) for model in models],
        settings,
        providers=tuple(split(running.providers)),
        threads=default_threads(workers) if running.threads is None else running.threads,
        native=running.native,
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        workers=workers,
        model_control=model_control,
    )
    if workers == 1:
        run(options)
    else:
        serve_workers(options)


def _found(argument: str) -> str:
    """Return an argument as it is, and that of a hub id as the file in its folder."""
    name, _, path = argument.rpartition("=")
    if not is_hub_id(path):
        return argument
    file = local(path) / "model.onnx"
    if not file.exists():
        raise InputError(
            f"{path} has no model.onnx; save it with bnlstm_deploy.hub, or convert {path}"
        )
    called = path.rpartition("/")[2].partition("@")[0]
    return f"{name or called}={file}"


def default_threads(workers: int) -> int:
    """Return how many threads an operator has: the cores that are left by what speaks HTTP."""
    return max(1, len(os.sched_getaffinity(0)) // (2 * workers))
