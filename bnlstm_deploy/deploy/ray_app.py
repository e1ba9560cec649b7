"""The application on Ray Serve: each replica serves the models, with REST at the ingress."""
# ruff: noqa: E402

from bnlstm_deploy.extras import require

require("ray", extra="ray")

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from starlette.applications import Starlette

from bnlstm_deploy.deploy.ray_config import Options
from bnlstm_deploy.errors import InputError, RuntimeSessionError
from bnlstm_deploy.runtime.providers import parse_providers
from bnlstm_deploy.serve.app import create_app
from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.repository import find
from bnlstm_deploy.serve.settings import Settings, read_token

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""Sends requests with one `x-session-id` to one replica, and others to any."""

GRACE = 5.0
"""Seconds after the last answer to stop in."""


@serve.deployment(name="Replica")
@serve.ingress()
class Replica:
    """A replica: engines of the files, and the same application as `bnlstm-deploy serve`.

    Args:
        options: What to serve.

    Raises:
        InputError: A file or the token is not on this node.
        RuntimeSessionError: A file or a provider cannot be used.
    """

    def __init__(self, options: Options) -> None:
        token = read_token(None if options.token_file is None else Path(options.token_file))
        if token is None and options.require_token:
            raise InputError(
                "this node has no token; set BNLSTM_DEPLOY_TOKEN in the environment that Ray is "
                "started in, on every node, or put the token file there"
            )
        self.settings = Settings(options.limits, token)
        self.engines = [
            Engine(
                entry.path,
                name=entry.name,
                version=entry.version,
                providers=parse_providers(options.providers),
                threads=options.threads,
                native=options.native,
                limits=options.limits,
            )
            for entry in find(options.models)
        ]
        for engine in self.engines:
            engine.warm_up()  # Serve sends requests to a replica when this returns

    def __serve_build_asgi_app__(self) -> Starlette:
        """Return the application; the name is Ray Serve's."""
        return create_app(self.engines, self.settings)

    async def check_health(self) -> None:
        """Raise if Serve should replace this replica.

        Raises:
            RuntimeSessionError: A model does not take requests.
        """
        for engine in self.engines:
            if not engine.ready:
                raise RuntimeSessionError(f"{engine.name} is not ready; the replica is replaced")

    async def __del__(self) -> None:
        """Answer what was accepted; Serve calls this once, after it sends no more."""
        engines = getattr(self, "engines", [])  # none if the constructor failed
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(max(len(engines), 1)) as threads:
            timeout = self.settings.limits.timeout if engines else 0.0
            await asyncio.gather(
                *(loop.run_in_executor(threads, engine.drain, timeout) for engine in engines)
            )
        for engine in engines:
            engine.close()


def build(options: Options) -> Application:
    """Return the application, for `serve run`, `serve deploy` and `serve.run`.

    Args:
        options: `args` of the config file.
    """
    limits = options.limits
    deployment = cast("serve.Deployment", Replica)  # what the decorators made of the class
    return deployment.options(
        autoscaling_config=AutoscalingConfig(
            min_replicas=options.min_replicas,
            max_replicas=options.max_replicas,
            target_ongoing_requests=options.target_ongoing_requests,
        ),
        # The engine's queue refuses what is too much, in the protocol's words.
        max_ongoing_requests=limits.max_queue + limits.max_batch,
        # No other replica than a session's own has its state, however busy that is.
        request_router_config=RequestRouterConfig(
            request_router_class=ROUTER,  # type: ignore[arg-type]
            request_router_kwargs={"num_fallback_replicas": 0},
        ),
        graceful_shutdown_timeout_s=limits.timeout + GRACE,
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
    ).bind(options)
