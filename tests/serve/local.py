"""A client of an ASGI application in this process, without a socket."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
from starlette.types import ASGIApp

from bnlstm_deploy.serve import Engine
from bnlstm_deploy.serve.app import create_app
from bnlstm_deploy.serve.settings import Settings


class Client:
    """Calls an application; use as a context manager.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.runner = asyncio.Runner()
        self.http = httpx.AsyncClient(transport=transport, base_url="http://server")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.runner.run(self.http.aclose())
        self.runner.close()

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Read something."""
        return self.runner.run(self.http.get(path, **options))

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Send something."""
        return self.runner.run(self.http.post(path, **options))


@contextlib.contextmanager
def serving(engines: Sequence[Engine], settings: Settings) -> Iterator[Client]:
    """Warm engines up, call them by the server's application, and close them."""
    for engine in engines:
        engine.warm_up()
    with Client(create_app(engines, settings)) as client:
        yield client
    for engine in engines:
        engine.close()
