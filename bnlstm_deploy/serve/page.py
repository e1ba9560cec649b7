"""The server's web page: its models, what they do at this moment, and a form that asks them.

The page is static files and two addresses with JSON: `page/models`, what does not change, and
`page/live`, what does. It asks models through the public protocol, like any client.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bnlstm_deploy.extras import require
from bnlstm_deploy.metadata import CARRIED
from bnlstm_deploy.serve.drawing import Drawing, read_drawing
from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.signature import Value

require("fastapi", extra="serve")

from fastapi import APIRouter, HTTPException, Response  # noqa: E402

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


def router(engines: Sequence[Engine]) -> APIRouter:
    """Return the routes of the page: `/` and what is below `/page/`.

    A file `MODEL.page.json` beside a model lets the page draw its input; see
    `bnlstm_deploy.serve.drawing`.

    Args:
        engines: The server's models, one for each version.

    Raises:
        InputError: A `MODEL.page.json` is not valid, or does not fit its model.
        MissingExtraError: The extra `serve` is not installed.
    """
    files = {path.name: path for path in STATIC.iterdir()}
    drawings = [read_drawing(e.path, e.inputs, e.outputs) for e in engines]
    routes = APIRouter(include_in_schema=False)

    @routes.api_route("/", methods=["GET", "HEAD"])
    def index() -> Response:
        return _file(files["index.html"])

    @routes.get("/page/models")
    def models() -> dict[str, Any]:
        return {"models": [facts(e, d) for e, d in zip(engines, drawings, strict=True)]}

    @routes.get("/page/live")
    def live(since: float = 0.0) -> dict[str, Any]:
        return {"models": [_live(engine, since) for engine in engines]}

    @routes.get("/page/{name}")
    def static(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, f"the page has no file {name!r}")
        return _file(files[name])

    return routes


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
        "file": {"name": engine.path.name, "bytes": engine.path.stat().st_size},
        "kernel": str(engine.native),
        "metadata": asdict(metadata) | {"steps": metadata.steps},
        "inputs": described(engine.inputs),
        "outputs": described(engine.outputs),
        "limits": asdict(engine.limits),
        "drawing": None if drawing is None else asdict(drawing),
    }


def _live(engine: Engine, since: float) -> dict[str, Any]:
    """Return what a model has done so far, and its executions after a time."""
    stats = engine.stats()
    return {
        "name": engine.name,
        "version": engine.version,
        "ready": engine.ready,
        "requests": stats.requests,
        "executions": stats.executions,
        "inferences": stats.inferences,
        "failures": dict(stats.failures),
        "queued": stats.queued,
        "sequences": stats.sequences,
        "recent": [list(execution) for execution in stats.recent if execution.at > since],
    }


def _file(path: Path) -> Response:
    return Response(path.read_bytes(), media_type=MEDIA_TYPES[path.suffix], headers=HEADERS)
