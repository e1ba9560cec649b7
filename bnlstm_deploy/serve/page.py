"""The server's web page: its models, what they do at this moment, and a form that asks them.

The page is static files and two addresses with JSON: `page/models`, what does not change, and
`page/live`, what does. It asks models through the public protocol, like any client.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote
from weakref import WeakKeyDictionary

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.metadata import CARRIED
from bnlstm_deploy.serve.dispatch import Dispatcher
from bnlstm_deploy.serve.drawing import Drawing, read_drawing
from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.faults import PathError
from bnlstm_deploy.serve.models import Models
from bnlstm_deploy.serve.stats import SPAN, ModelStats, Span
from bnlstm_deploy.signature import Value

STATIC = Path(__file__).parent / "static"

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""What the browser may do: nothing but read from this server."""


def routes(models: Models, dispatcher: Dispatcher) -> list[Route]:
    """Return the routes of the page: `/` and what is below `/page/`.

    A file `MODEL.page.json` beside a model lets the page draw its input; see
    `bnlstm_deploy.serve.drawing`.

    Args:
        models: The server's models.
        dispatcher: What knows what they did.

    Raises:
        InputError: A `MODEL.page.json` is not valid, or does not fit its model.
    """
    files = {path.name: path for path in STATIC.iterdir()}
    drawings = WeakKeyDictionary({engine: _drawing(engine) for engine in models.engines})

    def drawing(engine: Engine) -> Drawing | None:
        if engine not in drawings:  # it was loaded since
            drawings[engine] = _drawing(engine)
        return drawings[engine]

    async def index(request: Request) -> Response:
        del request
        return _file(files["index.html"])

    async def of_models(request: Request) -> Response:
        del request
        return json_response(
            {"models": [facts(engine, drawing(engine)) for engine in models.engines]}
        )

    async def live(request: Request) -> Response:
        try:
            since = float(request.query_params.get("since", 0))
        except ValueError as error:
            raise InputError(f"since is no number: {error}; pass seconds") from error
        stats = await dispatcher.stats()
        return json_response(
            {"models": [_live(m, since) for m in stats.models if m.engine is not None]}
        )

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in files:
            raise PathError(f"the page has no file {name!r:.100}")
        return _file(files[name])

    return [
        Route("/", index),
        Route("/page/models", of_models),
        Route("/page/live", live),
        Route("/page/{name}", static),
    ]


def facts(engine: Engine, drawing: Drawing | None) -> dict[str, Any]:
    """Return what the page shows of a model, and needs to ask it.

    Args:
        engine: The model.
        drawing: How its input is drawn, if it can be.
    """
    metadata = engine.metadata
    name, version = quote(engine.name, safe=""), quote(engine.version, safe="")
    carried = {layers.value_name(kind) for layers in metadata.layers for kind in CARRIED.values()}
    optional = engine.optional | carried

    def described(values: Sequence[Value]) -> list[dict[str, Any]]:
        return [
            value.described()
            | {"own": value.name not in optional, "time_axis": metadata.time_axes.get(value.name)}
            for value in values
        ]

    return {
        "name": engine.name,
        "version": engine.version,
        "infer": f"v2/models/{name}/versions/{version}/infer",
        "file": {"name": engine.path.name, "bytes": _size(engine.path)},
        "kernel": str(engine.native),
        "metadata": asdict(metadata) | {"steps": metadata.steps},
        "inputs": described(engine.inputs),
        "outputs": described(engine.outputs),
        "limits": asdict(engine.limits),
        "drawing": None if drawing is None else asdict(drawing),
    }


def _live(model: ModelStats, since: float) -> dict[str, Any]:
    """Return what a model has done so far, and its executions and requests after a time."""
    engine, requests = model.engine, model.requests
    assert engine is not None
    answered = [span.answered for span in requests.spans]
    latency = sum(answered[1:], answered[0]) if answered else None
    return {
        "name": model.name,
        "version": model.version,
        "ready": model.ready,
        "requests": requests.received,
        "latency": [None if latency is None else latency.quantile(q) for q in (0.5, 0.99)],
        "executions": engine.executions,
        "inferences": engine.inferences,
        "failures": dict(requests.failed),
        "queued": engine.queued,
        "sequences": engine.sequences,
        "recent": [list(execution) for execution in engine.recent if execution.at > since],
        "spans": [_span(span) for span in requests.spans if span.at > since - SPAN],
    }


def _span(span: Span) -> list[float | None]:
    """Return when it began, requests a second, p50, p99, and how many failed."""
    answered = sum(span.answered.counts)
    return [
        span.at,
        (answered + span.failed) / SPAN,
        *(span.answered.quantile(share) for share in (0.5, 0.99)),
        span.failed,
    ]


def _drawing(engine: Engine) -> Drawing | None:
    return read_drawing(engine.path, engine.inputs, engine.outputs)


def _size(path: Path) -> int | None:
    """Return the size of a file; None if it is there no more."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def json_response(content: object, status: int = 200) -> Response:
    """Return an answer in JSON."""
    return Response(orjson.dumps(content), status, media_type="application/json")


def _file(path: Path) -> Response:
    return Response(path.read_bytes(), media_type=MEDIA_TYPES[path.suffix], headers=HEADERS)
