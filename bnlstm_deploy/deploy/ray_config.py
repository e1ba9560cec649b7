"""What an application on Ray Serve is told, and the config file that says it."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bnlstm_deploy.atomic import replacing
from bnlstm_deploy.serve.limits import Limits

BUILDER = "bnlstm_deploy.deploy.ray_app:build"
"""The import path of the application, for `serve deploy` and `serve run`."""


class Options(BaseModel):
    """The arguments of the application: `args` in Ray Serve's config file.

    Raises:
        ValidationError: A field is unknown, of the wrong type or out of range.
    """

    model_config = ConfigDict(extra="forbid")

    models: list[str] = Field(min_length=1)
    """As `bnlstm-deploy serve` takes them. The paths must be there on every node."""
    providers: str = "cpu"
    """ONNX Runtime's, in order, comma-separated."""
    threads: int | None = Field(default=1, ge=1)
    """Threads inside an operator; None for one a core of the node."""
    native: bool = True
    """Whether replicas take the native kernel, where their node has one."""
    limits: Limits = Field(default_factory=Limits)
    """Of each replica."""
    token_file: str | None = None
    """A file on every node; None for BNLSTM_DEPLOY_TOKEN of the nodes' environment."""
    require_token: bool = False
    """Whether a replica that finds no token refuses to start."""
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=1, ge=1)
    target_ongoing_requests: float = Field(default=32.0, gt=0)
    """Requests in each replica at a time that autoscaling aims at."""
    cpus: float = Field(default=1.0, ge=0)
    """Ray's CPUs for each replica."""
    gpus: float = Field(default=0.0, ge=0)
    """Ray's GPUs for each replica."""

    @model_validator(mode="after")
    def _ordered(self) -> "Options":
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas {self.min_replicas} is more than max_replicas {self.max_replicas}"
            )
        return self


def config(
    options: Options, *, name: str, host: str, port: int, proxies: str = "EveryNode"
) -> dict[str, Any]:
    """Return the content of a config file for `serve deploy`.

    Args:
        options: The application's arguments.
        name: The application's.
        host: The address that the proxies listen on.
        port: Their port.
        proxies: Ray Serve's `proxy_location`.
    """
    return {
        "proxy_location": proxies,
        "http_options": {"host": host, "port": port},
        "applications": [
            {
                "name": name,
                "route_prefix": "/",
                "import_path": BUILDER,
                "args": options.model_dump(mode="json"),
            }
        ],
    }


def absolute(argument: str) -> str:
    """Return a model argument with its path made absolute: a replica runs in another folder."""
    name, equals, rest = argument.partition("=")
    if equals and not Path(argument).exists():
        return f"{name}={Path(rest).resolve()}"
    return str(Path(argument).resolve())


def write(content: dict[str, Any], path: Path, *, force: bool = False) -> None:
    """Write a config file as JSON, which is YAML.

    Raises:
        InputError: It exists and `force` is not set, or cannot be written.
    """
    with replacing(path, force=force) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
