"""The REST application: kserve's endpoints with versions and binary tensors, metrics and page."""
# ruff: noqa: E402

from bnlstm_deploy.extras import require

require("kserve", extra="serve")

import asyncio
import uuid
from collections.abc import Coroutine, Iterable
from typing import TypeVar

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from kserve.errors import ModelNotFound, ModelNotReady, ServerNotReady
from kserve.protocol.rest.v2_datamodels import ModelMetadataResponse, ModelReadyResponse
from kserve.protocol.rest.v2_endpoints import V2Endpoints
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import Mount, Route

from bnlstm_deploy.errors import BnlstmError
from bnlstm_deploy.serve import page
from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.faults import answer
from bnlstm_deploy.serve.guard import Guard
from bnlstm_deploy.serve.plane import Plane, key
from bnlstm_deploy.serve.records import Records
from bnlstm_deploy.serve.rest import read_request, write_response
from bnlstm_deploy.serve.settings import Settings
from bnlstm_deploy.version import __version__

T = TypeVar("T")

MODELS = ("/models/{model_name}", "/models/{model_name}/versions/{model_version}")
"""Where a model is: the version that its name has, or a given one."""

OPEN_PATHS = frozenset(
    (
        "/v2/health/live",
        "/v2/health/ready",
        "/",
        *(f"/page/{p.name}" for p in page.STATIC.iterdir()),
    )
)
"""What needs no token: probes have none, and the page's files ask for it."""

ANSWERED = (
    BnlstmError,
    ModelNotFound,
    ModelNotReady,
    ServerNotReady,
    RequestValidationError,
    HTTPException,
    Exception,
)
"""Errors that are answers."""


def create_app(engines: Iterable[Engine], settings: Settings) -> Starlette:
    """Return the REST application of some models: protocol, metrics and page.

    It starts and stops nothing: who calls this warms the engines up, drains and closes them. Its
    `state` has the `plane` and `records` that a gRPC server shares.

    Args:
        engines: The models; one name may be there in several versions, and the highest serves
            requests that name none.
        settings: Limits and the token.

    Raises:
        InputError: Two engines have one name and version.
    """
    app = FastAPI(
        title="bnlstm-deploy", version=__version__, docs_url=None, redoc_url=None, openapi_url=None
    )
    plane = Plane(engines)
    records = Records(plane)
    endpoints = _Endpoints(plane, records)
    app.include_router(_protocol(endpoints))
    app.include_router(_metrics(records))
    app.include_router(page.router(plane.engines))
    for kind in ANSWERED:
        app.add_exception_handler(kind, _answer)
    # Before FastAPI: it would read the body by its own rules, and costs as much as the rest.
    infer = [Route(f"/v2{model}/infer", endpoints.infer, methods=["POST"]) for model in MODELS]
    app.router.routes.extend(infer)  # which other methods get to, to be told so
    front = Starlette(
        routes=[*infer, Mount("/", app)],
        middleware=[
            Middleware(Guard, settings=settings, open_paths=OPEN_PATHS, refused=records.refused)
        ],
        exception_handlers=dict.fromkeys(ANSWERED, _answer),
    )
    front.state.plane, front.state.records = plane, records
    return front


class _Endpoints(V2Endpoints):  # type: ignore[misc]  # kserve has no types
    """kserve's endpoints; a model's version is part of its name there."""

    def __init__(self, plane: Plane, records: Records) -> None:
        super().__init__(plane)
        self.records = records

    async def models(self) -> dict[str, list[str]]:
        """Return the names of the models."""
        return {"models": self.dataplane.names}

    async def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        """Return inputs, outputs and versions of a model."""
        return await super().model_metadata(key(model_name, model_version))

    async def model_ready(
        self, model_name: str, model_version: str | None = None
    ) -> ModelReadyResponse:
        """Return whether a model is ready."""
        return await super().model_ready(key(model_name, model_version))

    async def infer(self, request: Request) -> Response:
        """Answer an inference request; an error becomes an answer here, so that it is logged."""
        model_name = request.path_params["model_name"]
        model_version = request.path_params.get("model_version")
        try:
            with self.records.request("rest", model_name, model_version) as record:
                record.id = request.headers.get("x-request-id") or str(uuid.uuid4())
                model = self.dataplane.open_model(key(model_name, model_version))
                asked = read_request(await request.body(), request.headers, model_name)
                asked.id = record.id = asked.id or record.id
                response = await _unless_gone(request, model.predict(asked))
                body, headers = write_response(asked, response)
                return Response(body, headers=headers)
        except Exception as error:
            return answer(error)


async def _unless_gone(request: Request, call: Coroutine[object, object, T]) -> T:
    """Await a call; cancel it if the client leaves.

    Raises:
        ClientDisconnect: The client has left.
    """
    task = asyncio.current_task()
    assert task is not None

    async def watch() -> None:
        await request.receive()  # the body is read: what comes is the end
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await call
    except asyncio.CancelledError:
        if watcher.done() and not task.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        watcher.cancel()


def _protocol(endpoints: _Endpoints) -> APIRouter:
    """Return the routes that kserve has too, with versions, and without those that load models."""
    router = APIRouter(prefix="/v2")
    get = router.get
    get("")(endpoints.metadata)
    get("/health/live")(endpoints.live)
    get("/health/ready")(endpoints.ready)
    get("/models")(endpoints.models)
    for model in MODELS:
        get(model)(endpoints.model_metadata)
        get(f"{model}/ready")(endpoints.model_ready)
    return router


def _metrics(records: Records) -> APIRouter:
    router = APIRouter()

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(records.registry), headers={"Content-Type": content_type})

    return router


async def _answer(request: Request, error: Exception) -> Response:
    del request
    return answer(error)
