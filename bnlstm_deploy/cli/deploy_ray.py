"""bnlstm-deploy deploy ray."""

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from bnlstm_deploy.access import read_token
from bnlstm_deploy.atomic import check_writable
from bnlstm_deploy.cli.console import make_console
from bnlstm_deploy.cli.options import Force, Host, Running, ServerLimits, TokenFile, split
from bnlstm_deploy.deploy.names import check_name
from bnlstm_deploy.errors import InputError, RuntimeSessionError
from bnlstm_deploy.extras import require

REPLICAS = "Replicas"


def ray(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]MODEL.onnx...",
            help="Exported files or folders of them, as `bnlstm-deploy serve` takes them.",
        ),
    ],
    running: Running,
    limits: ServerLimits,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the config file for `serve deploy` or KubeRay, and run nothing.",
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster.", show_default="start Ray here")
    ] = None,
    host: Host = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=1, max=65535, help="REST.")] = 8000,
    name: Annotated[str, typer.Option(help="The application's name.")] = "bnlstm",
    token_file: TokenFile = None,
    min_replicas: Annotated[
        int, typer.Option(min=1, help="The least.", rich_help_panel=REPLICAS)
    ] = 1,
    max_replicas: Annotated[
        int | None,
        typer.Option(min=1, help="The most.", show_default="the least", rich_help_panel=REPLICAS),
    ] = None,
    target_ongoing_requests: Annotated[
        float,
        typer.Option(min=0.1, help="Requests in a replica to scale by.", rich_help_panel=REPLICAS),
    ] = 32.0,
    cpus: Annotated[float, typer.Option(min=0, help="Of each.", rich_help_panel=REPLICAS)] = 1.0,
    gpus: Annotated[float, typer.Option(min=0, help="Of each.", rich_help_panel=REPLICAS)] = 0.0,
    force: Force = False,
) -> None:
    """Serve exported files on a Ray cluster: Open Inference Protocol v2 over REST.

    Each node reads files and the token itself, at the same path or in its own environment.

    Example: bnlstm-deploy deploy ray digits.onnx --min-replicas 2 --max-replicas 8
    """
    require("ray", extra="ray")
    require("tritonclient", extra="ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from bnlstm_deploy.deploy.ray_config import Options, absolute, config, write
    from bnlstm_deploy.runtime import Session
    from bnlstm_deploy.serve import Limits
    from bnlstm_deploy.serve.ports import listen
    from bnlstm_deploy.serve.repository import find

    check_name(name)
    most = min_replicas if max_replicas is None else max_replicas
    if most < min_replicas:
        raise InputError(
            f"--max-replicas is {most} and --min-replicas {min_replicas}; pass no more as the least"
        )
    wanted = split(running.providers)
    here = address is None and output is None  # the nodes of a cluster may have other providers
    entries = find(models)
    for entry in entries:  # what cannot be used is refused here, not in the cluster
        Session(entry.path, providers=wanted if here else ("cpu",), native=running.native)
    options = Options(
        models=[absolute(model) for model in models],
        **vars(running),
        limits=Limits(**vars(limits)),
        token_file=None if token_file is None else str(token_file.resolve()),
        # A node that lacks the token refuses to start, instead of letting everybody in.
        require_token=read_token(token_file) is not None,
        min_replicas=min_replicas,
        max_replicas=most,
        target_ongoing_requests=target_ongoing_requests,
        cpus=cpus,
        gpus=gpus,
    )
    if output is not None:
        check_writable(output, force=force, inputs=(*(entry.path for entry in entries), token_file))
        write(config(options, name=name, host=host, port=http_port), output, force=force)
        make_console().print(f"Wrote {output}")
        return
    if address is None:
        with listen(host, http_port):  # Serve says in a log alone that it cannot, and goes on
            pass
    from bnlstm_deploy.deploy.ray_run import run

    try:
        run(options, name=name, address=address, host=host, port=http_port, stops=_STOPS)
    except RuntimeError as error:  # Serve's: a replica does not start
        raise RuntimeSessionError(f"{error}; its log tells more") from error


_STOPS = (signal.SIGTERM, signal.SIGINT)
