"""The application on Ray Serve: each replica serves the models, with REST at the ingress."""
# ruff: noqa: E402

from bnlstm_deploy.extras import require

require("ray", extra="ray")

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from bnlstm_deploy.access import read_token
from bnlstm_deploy.deploy.ray_config import Options
from bnlstm_deploy.deploy.ray_sequences import Routed
from bnlstm_deploy.deploy.ray_sequences import deployment as incarnations
from bnlstm_deploy.errors import InputError, RuntimeSessionError
from bnlstm_deploy.runtime.providers import parse_providers
from bnlstm_deploy.serve.app import App
from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.models import Models
from bnlstm_deploy.serve.records import Records
from bnlstm_deploy.serve.repository import find
from bnlstm_deploy.serve.settings import Settings

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""Sends requests with one `x-session-id` to one replica, and others to any."""

ON_HEAD = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
"""Where what knows the sequences runs: the head is the one node that the cluster cannot lose."""

GRACE = 5.0
"""Seconds after the last answer to stop in."""


@serve.deployment(name="Replica")
@serve.ingress()
class Replica:
    """A replica: engines of the files, and the same application as `bnlstm-deploy serve`.

    Args:
        options: What to serve.
        incarnations: What knows the latest beginning of each sequence.

    Raises:
        InputError: A file or the token is not on this node.
        RuntimeSessionError: A file or a provider cannot be used.
    """

    def __init__(self, options: Options, incarnations: DeploymentHandle[Any]) -> None:
        token = read_token(None if options.token_file is None else Path(options.token_file))
        if token is None and options.require_token:
            raise InputError(
                "this node has no token; set BNLSTM_DEPLOY_TOKEN in the environment that Ray is "
                "started in, on every node, or put the token file there"
            )
        self.settings = Settings(options.limits, token)
        self.incarnations = incarnations
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

    def __serve_build_asgi_app__(self) -> App:
        """Return the application; the name is Ray Serve's."""
        context = serve.get_replica_context()
        own: DeploymentHandle[Any] = serve.get_deployment_handle(
            context.deployment, context.app_name
        )
        records = Records(Models(self.engines))
        self.routed = Routed(records, own=own, incarnations=self.incarnations)
        return App(self.routed.records.models, self.routed.records, self.routed, self.settings)

    async def infer_held(self, *asked: Any) -> Any:  # noqa: ANN401
        """Answer another replica, as `Routed.infer_here` does."""
        return await self.routed.infer_here(*asked)

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
        # The engine's queue refuses what is too much, in the protocol's words. Beside what waits
        # there is as much that waits for other replicas, and what others wait for here.
        max_ongoing_requests=3 * (limits.max_queue + limits.max_batch),
        # No other replica than a session's own has its state, however busy that is.
        request_router_config=RequestRouterConfig(
            request_router_class=ROUTER,  # type: ignore[arg-type]
            request_router_kwargs={"num_fallback_replicas": 0},
        ),
        graceful_shutdown_timeout_s=limits.timeout + GRACE,
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
    ).bind(options, incarnations.options(ray_actor_options=ON_HEAD).bind())
