"""Who may come in, and with how much: the first thing that a request meets."""

import asyncio
import hmac
import re
from collections.abc import Callable, Collection

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bnlstm_deploy.errors import OverloadedError
from bnlstm_deploy.serve.faults import (
    HostError,
    MethodError,
    PathError,
    SlowError,
    TooLargeError,
    UnauthorizedError,
    answer_to,
)
from bnlstm_deploy.serve.settings import Settings

SCHEME = "bearer"
DIGITS = re.compile(b"[0-9]{1,19}")
PORT = re.compile(r":[0-9]*$")
NOT_FOUND, NOT_ALLOWED = 404, 405


def check_token(authorization: str | None, token: str | None) -> None:
    """Compare a header `Authorization: Bearer TOKEN` in a time that tells nothing of the token.

    Raises:
        UnauthorizedError: There is a token to show, and the header has another or none.
    """
    if token is None:
        return
    scheme, _, shown = (authorization or "").partition(" ")
    same = hmac.compare_digest(shown.strip().encode(), token.encode())
    if not (same and scheme.lower() == SCHEME):
        seen = "no token" if not authorization else "another token than the server's"
        raise UnauthorizedError(
            f"the request has {seen}; send the header Authorization: Bearer TOKEN"
        )


class Guard:
    """ASGI middleware that refuses what may not come in, and answers errors as the protocol does.

    It refuses requests without a token or for another host, and bodies that are too large, too
    slow, or too much with all others that are being read.

    Args:
        app: The application behind it.
        settings: Token, hosts and limits.
        open_paths: What needs no token.
        refused: Called with each error that is answered before the application is asked.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        open_paths: Collection[str],
        refused: Callable[[BaseException], None],
    ) -> None:
        self.app = app
        self.open_paths = open_paths
        self.refused = refused
        self.token = settings.token
        self.hosts = settings.hosts
        self.limits = settings.limits
        self.pending = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request pass, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            self._check_host(headers.get(b"host", b"").decode("latin-1"))
            if scope["path"].removeprefix(scope.get("root_path", "")) not in self.open_paths:
                shown = headers.get(b"authorization")
                check_token(None if shown is None else shown.decode("latin-1"), self.token)
            declared = headers.get(b"content-length", b"")
            self._check_size(int(declared) if DIGITS.fullmatch(declared) else 0)
        except (HostError, UnauthorizedError, TooLargeError) as error:
            self.refused(error)
            await respond(send, *answer_to(error))
            return
        body = _Body(self, receive)
        try:
            await self.app(scope, body.receive, send)
        except HTTPException as error:
            path = scope["path"]
            if error.status_code == NOT_FOUND:
                await respond(send, *answer_to(PathError(f"there is nothing at {path!r:.200}")))
            elif error.status_code == NOT_ALLOWED:
                status, text, kept = answer_to(MethodError(f"{path!r:.200} is for other methods"))
                allow = (error.headers or {}).get("Allow", "").encode()
                await respond(send, status, text, [*kept, (b"allow", allow)])
            else:
                raise
        except Exception as error:
            await respond(send, *answer_to(error))
        finally:
            self.pending -= body.size

    def _check_host(self, host: str) -> None:
        """Refuse a page of another site whose name was made to mean this machine."""
        name = PORT.sub("", host).lower()
        if self.hosts is not None and name and name not in self.hosts:
            raise HostError(
                f"the request is for the host {host!r:.100}; this server listens for "
                f"{sorted(self.hosts)} only"
            )

    def _check_size(self, size: int) -> None:
        if size > self.limits.max_body:
            raise TooLargeError(
                f"the body has {size} bytes or more; the server's limit max_body is "
                f"{self.limits.max_body}"
            )

    def _check_pending(self) -> None:
        if self.pending > self.limits.max_pending:
            raise OverloadedError(
                "requests of more bytes are being read than max_pending allows, "
                f"{self.limits.max_pending}; try again later"
            )


class _Body:
    """The body of one request, with its bytes counted and its clock running while it comes."""

    def __init__(self, guard: Guard, receive: Receive) -> None:
        self.size = 0
        self._guard = guard
        self._receive = receive
        self._ended = False
        self._end: float | None = None

    async def receive(self) -> Message:
        if self._ended:  # whoever listens on waits for the client to leave
            return await self._receive()
        if self._end is None:
            self._end = asyncio.get_running_loop().time() + self._guard.limits.timeout
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError as error:
            raise SlowError(
                f"the body did not arrive within {self._guard.limits.timeout:g} s; send it faster"
            ) from error
        came = len(message.get("body", b""))
        self.size += came
        self._guard.pending += came
        self._ended = not message.get("more_body", False)
        self._guard._check_size(self.size)
        self._guard._check_pending()
        return message


async def respond(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Send a whole answer."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
