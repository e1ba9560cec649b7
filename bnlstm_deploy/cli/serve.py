"""bnlstm-deploy serve."""

import os
from pathlib import Path
from typing import Annotated

import typer

from bnlstm_deploy.cli.options import Running, ServerLimits, split
from bnlstm_deploy.extras import require


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]MODEL.onnx...",
            help="Exported files, or folders of them: folder/*.onnx and "
            "folder/NAME/VERSION/*.onnx, or NAME=folder with folder/VERSION/*.onnx.",
        ),
    ],
    running: Running,
    limits: ServerLimits,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, help="REST, metrics and page; 0 for any.")
    ] = 8080,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC; 0 for any.")] = 8081,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Bearer token that requests must carry.",
            show_default="BNLSTM_DEPLOY_TOKEN of the environment, or none",
        ),
    ] = None,
) -> None:
    """Serve exported files: Open Inference Protocol v2 over REST and gRPC, metrics and a page.

    Example: bnlstm-deploy serve digits.onnx --http-port 8080 --grpc-port 8081
    """
    require("kserve", extra="serve")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own log is no JSON
    from bnlstm_deploy.serve import Engine, Limits
    from bnlstm_deploy.serve.repository import find
    from bnlstm_deploy.serve.server import serve as run
    from bnlstm_deploy.serve.settings import Settings, read_token

    settings = Settings(Limits(**vars(limits)), read_token(token_file))
    engines = [
        Engine(
            entry.path,
            name=entry.name,
            version=entry.version,
            providers=split(running.providers),
            threads=running.threads,
            native=running.native,
            limits=settings.limits,
        )
        for entry in find(models)
    ]
    run(engines, settings, host=host, http_port=http_port, grpc_port=grpc_port)
