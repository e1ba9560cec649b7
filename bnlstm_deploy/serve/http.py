"""HTTP connections: accepted as they come, and bounded in number, time and header.

uvicorn speaks HTTP. Its event loop accepts one connection a turn, so that new clients wait while
old ones are busy; and it reads headers of any size for any time.
"""

import asyncio
import contextlib
import errno
import math
import os
import socket
from collections.abc import Iterator
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from bnlstm_deploy.serve.limits import Limits
from bnlstm_deploy.serve.logs import log
from bnlstm_deploy.serve.records import Records

AT_ONCE = 256
"""Connections that are accepted in one turn of the event loop."""

KEEP_ALIVE = 65
"""Seconds that an idle connection stays open: more than the 60 of common proxies."""

HEADER_SECONDS = 10
"""From the start of a connection, or of a request in it, to the end of its header."""

HEADER_BYTES = 2**16
"""Of a request's line and headers."""

TICK = 0.1
"""Seconds between two of uvicorn's ticks."""

FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
PAUSE = 0.1
"""Seconds until the next attempt if the process has no file descriptor left."""

REFUSALS = {
    "too many": (503, "Service Unavailable", "too many connections are open; try again later"),
    "large": (431, "Request Header Fields Too Large", f"the header is over {HEADER_BYTES} bytes"),
    "slow": (408, "Request Timeout", f"the header took over {HEADER_SECONDS} s; send it faster"),
}


class RestServer(uvicorn.Server):
    """uvicorn on a socket that listens, with a loop of its own to accept connections.

    Args:
        app: The ASGI application.
        listening: The socket.
        limits: How many connections, and how long they may take to end.
        records: Counts connections.
    """

    def __init__(
        self,
        app: ASGIApp,
        listening: socket.socket,
        limits: Limits,
        records: Records,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                cast("Any", app),  # uvicorn has types of its own for the same
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nothing here asks where a request is from
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=math.ceil(limits.timeout),
            )
        )
        self._listening = listening
        self._most = limits.max_connections
        self._records = records
        self._openings: set[asyncio.Task[None]] = set()
        self._spare: int | None = None
        self._last_tick: float | None = None

    async def run_on_socket(self) -> None:
        """Serve until `should_exit`, and until all requests are answered."""
        self._listening.setblocking(False)
        self._spare = os.open(os.devnull, os.O_RDONLY)
        asyncio.get_running_loop().add_reader(self._listening, self._accept)
        await self.serve(sockets=[])

    def stop_accepting(self) -> None:
        """Take no more connections; those that are open go on."""
        if self._listening.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End connections as they become idle; those that wait to be accepted are answered, too."""
        self._accept()
        if self._openings:
            await asyncio.wait(self._openings)
        self.stop_accepting()
        await super().shutdown(sockets)
        if self._spare is not None:
            os.close(self._spare)

    async def on_tick(self, counter: int) -> bool:
        """Note how late the event loop is: uvicorn calls this ten times a second."""
        now = asyncio.get_running_loop().time()
        if self._last_tick is not None:
            self._records.loop_delay.add(max(0.0, now - self._last_tick - TICK))
        self._last_tick = now
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the drain."""
        yield

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in FULL:
                    raise
                self._refuse_without_descriptors(error)
                return
            if self._records.connections >= self._most:
                self._records.refused_connections += 1
                _refuse(connection, "too many")
                continue
            # Without it an answer's body waits for the client to acknowledge its header, 40 ms.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)
            # What has come already need not wait for the event loop to find it.
            first = b""
            with contextlib.suppress(BlockingIOError, ConnectionError):
                first = connection.recv(HEADER_BYTES)
            self._records.connections += 1
            opening = asyncio.create_task(self._open(connection, first))
            self._openings.add(opening)
            opening.add_done_callback(self._openings.discard)

    async def _open(self, connection: socket.socket, first: bytes) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Protocol(self.config, self.server_state, self._records, first),
                connection,
            )
        except OSError:  # the client has left
            self._records.connections -= 1
            connection.close()

    def _refuse_without_descriptors(self, error: OSError) -> None:
        """Take one connection with a descriptor kept for this, refuse it, and pause."""
        log("out of file descriptors", error=str(error), open=self._records.connections)
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
            with contextlib.suppress(OSError):
                connection, _ = self._listening.accept()
                self._records.refused_connections += 1
                _refuse(connection, "too many")
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening)
        loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        if self._listening.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._listening, self._accept)


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with a bound on each header's bytes and time.

    What is no body counts as header: trailers and the extensions of chunks, too.
    """

    def __init__(
        self, config: uvicorn.Config, server_state: ServerState, records: Records, first: bytes
    ) -> None:
        super().__init__(config, server_state, {})
        self._records = records
        self._first = first
        self._unseen = 0
        self._timer: asyncio.TimerHandle | None = None
        self._in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock: no request may be long in coming on a new connection."""
        super().connection_made(transport)
        self._expect_header()
        if self._first:
            self.data_received(self._first)
            self._first = b""

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock, and make room for another connection."""
        self._records.connections -= 1
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        if self._timer is None and not self._in_body:  # until a later request begins there is time
            self._expect_header()
        self._unseen += len(data)
        super().data_received(data)
        if self._unseen > HEADER_BYTES:
            self._refuse("large")

    def on_headers_complete(self) -> None:
        """Stop the clock."""
        self._unseen, self._in_body = 0, True
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._unseen = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next request."""
        self._unseen, self._in_body = 0, False
        super().on_message_complete()

    def _expect_header(self) -> None:
        self._timer = self.loop.call_later(HEADER_SECONDS, self._refuse, "slow")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, why: str) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            self.transport.write(_refusal(why))
            self.transport.close()


def _refusal(why: str) -> bytes:
    status, phrase, text = REFUSALS[why]
    body = b'{"error":"%s"}' % text.encode()
    head = (
        f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


def _refuse(connection: socket.socket, why: str) -> None:
    with connection, contextlib.suppress(OSError):
        connection.setblocking(False)
        connection.send(_refusal(why))
