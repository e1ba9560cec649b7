"""Who may come in, and with how much: the first thing that a request meets."""

import asyncio
import hmac
import re
from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bnlstm_deploy.serve.faults import SlowError, TooLargeError, UnauthorizedError, answer
from bnlstm_deploy.serve.settings import Settings

SCHEME = "bearer"
DIGITS = re.compile("[0-9]{1,19}")


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
        raise UnauthorizedError(
            "the request has no valid token; send the header Authorization: Bearer TOKEN"
        )


class Guard:
    """ASGI middleware that refuses requests without a token, and bodies that are too large or slow.

    Args:
        app: The application behind it.
        settings: Token and limits.
        open_paths: What needs no token.
        refused: Called with each error that is answered here.
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
        self.max_body = settings.limits.max_body
        self.timeout = settings.limits.timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request pass, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            if scope["path"].removeprefix(scope.get("root_path", "")) not in self.open_paths:
                check_token(headers.get("authorization"), self.token)
            declared = headers.get("content-length", "")
            self._check_size(int(declared) if DIGITS.fullmatch(declared) else 0)
        except (UnauthorizedError, TooLargeError) as error:
            self.refused(error)
            await answer(error)(scope, receive, send)
            return
        await self.app(scope, self._limited(receive), send)

    def _limited(self, receive: Receive) -> Receive:
        """Return `receive` with its bytes counted and its clock running while the body comes."""
        size, ended = 0, False
        end = asyncio.get_running_loop().time() + self.timeout

        async def limited() -> Message:
            nonlocal size, ended
            if ended:  # whoever listens on waits for the client to leave
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError as error:
                raise SlowError(
                    f"the body did not arrive within {self.timeout:g} s; send it faster"
                ) from error
            size += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            self._check_size(size)
            return message

        return limited

    def _check_size(self, size: int) -> None:
        if size > self.max_body:
            raise TooLargeError(
                f"the body has {size} bytes or more; the server's limit max_body is {self.max_body}"
            )
