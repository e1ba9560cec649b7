"""The REST application: the Open Inference Protocol with Triton's extensions, metrics and page."""
# ruff: noqa: E402

from bnlstm_deploy.extras import require

require("starlette", extra="serve")

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.serve import page
from bnlstm_deploy.serve.dispatch import Dispatcher
from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.faults import ClientGoneError, NotReadyError
from bnlstm_deploy.serve.guard import Guard, respond
from bnlstm_deploy.serve.inference import INLINE
from bnlstm_deploy.serve.metrics import exposition
from bnlstm_deploy.serve.models import Models
from bnlstm_deploy.serve.page import json_response
from bnlstm_deploy.serve.records import Records
from bnlstm_deploy.serve.rest import (
    JSON_LENGTH,
    decompress,
    is_short,
    json_length,
    parse,
    read,
    write_response,
)
from bnlstm_deploy.serve.settings import Settings
from bnlstm_deploy.serve.statistics import statistics

T = TypeVar("T")

MODELS = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
"""Where a model is: the version that its name has, or a given one."""

PATIENCE = 0.1
"""Seconds that a request runs before the server looks whether its client is still there."""

LENGTH_HEADER = JSON_LENGTH.lower().encode()

OPEN_PATHS = frozenset(
    (
        "/v2/health/live",
        "/v2/health/ready",
        "/",
        *(f"/page/{p.name}" for p in page.STATIC.iterdir()),
    )
)
"""What needs no token: probes have none, and the page's files ask for it."""


def create_app(models: Models | Sequence[Engine], settings: Settings) -> "App":
    """Return the REST application of some models: protocol, metrics and page.

    It starts and stops nothing: who calls this warms the engines up, drains and closes them.

    Args:
        models: The models, or engines; one name may be there in several versions, and the highest
            serves requests that name none.
        settings: Limits and the token.

    Raises:
        InputError: Two engines have one name and version, or a `MODEL.page.json` is not valid.
    """
    models = models if isinstance(models, Models) else Models(models)
    records = Records(models)
    return App(models, records, Dispatcher(records), settings)


class App:
    """The application.

    Args:
        models: The models.
        records: What counts and logs requests.
        dispatcher: What runs them.
        settings: Limits and the token.

    Attributes:
        models, records, dispatcher: The same.
    """

    def __init__(
        self, models: Models, records: Records, dispatcher: Dispatcher, settings: Settings
    ) -> None:
        self.models, self.records, self.dispatcher = models, records, dispatcher
        self.limits = settings.limits
        self._router = Router(
            [
                *(_infer_route(path, self._infer) for path in MODELS),
                _tell("/v2", lambda _: models.metadata()),
                _tell("/v2/health/live", lambda _: {"live": True}),
                _get("/v2/health/ready", self._ready),
                _tell("/v2/models", lambda _: {"models": models.names}),
                _get("/v2/models/stats", self._statistics),
                *(_tell(path, lambda r: models.model_metadata(self._model(r))) for path in MODELS),
                *(_get(f"{path}/ready", self._model_ready) for path in MODELS),
                *(
                    _tell(f"{path}/config", lambda r: models.model_config(self._model(r)))
                    for path in MODELS
                ),
                *(_get(f"{path}/stats", self._statistics) for path in MODELS),
                Route("/v2/repository/index", self._index, methods=["POST"]),
                Route("/v2/repository/models/{model}/load", self._load, methods=["POST"]),
                Route("/v2/repository/models/{model}/unload", self._unload, methods=["POST"]),
                _get("/metrics", self._metrics),
                *page.routes(models, dispatcher),
            ],
            redirect_slashes=False,
        )
        self._guarded = Guard(
            self._route, settings, OPEN_PATHS, lambda error: records.refused("rest", error)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._guarded(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # with it what is not there is an error, which the guard answers
        await self._router(scope, receive, send)

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an inference request."""
        name, version = _named(scope)
        headers = dict(scope["headers"])
        with self.records.request("rest", name, version) as record:
            record.id = headers.get(b"x-request-id", b"").decode("latin-1") or self.records.new_id()
            engine = self.models.open(name, version)
            body = await _body(receive)
            encoding = headers.get(b"content-encoding", b"identity").decode("latin-1")
            if encoding != "identity":
                body = await asyncio.to_thread(decompress, body, encoding, self.limits)
            length = headers.get(LENGTH_HEADER)
            end = json_length(None if length is None else length.decode("latin-1"), len(body))
            given, is_quick = (body, end, self.limits), end <= INLINE
            parsed = parse(*given) if is_quick else await asyncio.to_thread(parse, *given)
            record.id = parsed.id or record.id
            known = parsed, engine.inputs, engine.outputs
            request = read(*known) if is_quick else await asyncio.to_thread(read, *known)
            del body, given, parsed, known  # what waits is the arrays, not what they were read from
            results = await _unless_gone(receive, self.dispatcher.infer(engine, request.asked))
            wrote = request, results, (engine.name, engine.version), record.id, self.limits
            if is_short(request, results):
                content, kind = write_response(*wrote)
            else:
                content, kind = await asyncio.to_thread(write_response, *wrote)
            await respond(send, 200, content, kind)

    async def _ready(self, request: Request) -> Response:
        del request
        return json_response({"ready": self.models.ready}, 200 if self.models.ready else 503)

    def _model(self, request: Request) -> Engine:
        return self.models.get(*_named(request.scope))

    async def _model_ready(self, request: Request) -> Response:
        engine = self._model(request)
        if not self.models.takes(engine.name, engine.version):
            raise NotReadyError(f"model {engine.name!r} is not ready")
        return json_response({"name": engine.name, "ready": True})

    async def _statistics(self, request: Request) -> Response:
        name, version = _named(request.scope)
        if name:
            self.models.get(name, version)
        return json_response(statistics(await self.dispatcher.stats(), name, version))

    async def _index(self, request: Request) -> Response:
        ready = (await _json_body(request)).get("ready") is True
        return json_response(self.models.index(ready=ready))

    async def _load(self, request: Request) -> Response:
        if (await _json_body(request)).get("parameters"):
            raise InputError("a model is loaded from the server's own files; pass no parameters")
        await self.dispatcher.load(request.path_params["model"])
        return json_response({})

    async def _unload(self, request: Request) -> Response:
        await self.dispatcher.unload(request.path_params["model"])
        return json_response({})

    async def _metrics(self, request: Request) -> Response:
        stats = await self.dispatcher.stats()
        accept = request.headers.get("accept", "")
        text, content_type = exposition(stats, accept, process=self.dispatcher.alone)
        return Response(text, headers={"Content-Type": content_type})


async def _unless_gone(receive: Receive, call: Coroutine[object, object, T]) -> T:
    """Await a call; cancel it if the client leaves.

    Raises:
        ClientGoneError: The client has left.
    """
    task = asyncio.current_task()
    assert task is not None
    watchers: list[asyncio.Task[None]] = []

    async def watch() -> None:
        await receive()  # the body is read: what comes is the end
        task.cancel()

    # Most calls are over before it is worth the while to look for the client.
    timer = asyncio.get_running_loop().call_later(
        PATIENCE, lambda: watchers.append(asyncio.create_task(watch()))
    )
    try:
        return await call
    except asyncio.CancelledError:
        if any(watcher.done() for watcher in watchers) and not task.uncancel():
            raise ClientGoneError("the client has left") from None
        raise
    finally:
        timer.cancel()
        for watcher in watchers:
            watcher.cancel()


async def _body(receive: Receive) -> bytes:
    """Return the whole body.

    Raises:
        ClientGoneError: The client has left.
    """
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("the client has left")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _json_body(request: Request) -> dict[str, Any]:
    """Return the JSON of a small request; it may be empty."""
    body = await _body(request.receive)
    try:
        return msgspec.json.decode(body[:INLINE], type=dict[str, Any]) if body else {}
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"the body is no JSON object: {error}") from error


def _named(scope: Scope) -> tuple[str, str | None]:
    parameters = scope["path_params"]
    return parameters.get("model", ""), parameters.get("version")


def _get(path: str, answer: Callable[[Request], Awaitable[Response]]) -> Route:
    return Route(path, answer, methods=["GET"])


def _tell(path: str, content: Callable[[Request], object]) -> Route:
    async def answer(request: Request) -> Response:
        return json_response(content(request))

    return _get(path, answer)


def _infer_route(path: str, infer: Callable[[Scope, Receive, Send], Awaitable[None]]) -> Route:
    class Infer:  # what is no function is an ASGI application to Starlette
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await infer(scope, receive, send)

    return Route(f"{path}/infer", Infer(), methods=["POST"])
