"""Connections: how many, how long their headers, and how soon they are accepted."""

import contextlib
import http.client
import json
import socket
import threading
from types import SimpleNamespace

import pytest
import uvloop

from bnlstm_deploy.serve import http as http_module
from bnlstm_deploy.serve.http import HEADER_BYTES, RestServer
from bnlstm_deploy.serve.limits import Limits
from bnlstm_deploy.serve.stats import BOUNDS, Durations

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class App:
    """Answers everything, and waits in the event loop's thread where a test asks for it."""

    def __init__(self):
        self.hold = threading.Event()
        self.hold.set()
        self.held = threading.Event()
        self.server = None

    async def __call__(self, scope, receive, send):
        if scope["path"] == "/hold":
            self.held.set()
            self.hold.wait()
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"yes"})


class Running:
    """A server on a free port, in a thread of its own."""

    def __init__(self, **limits):
        self.app = App()
        self.records = SimpleNamespace(connections=0, refused_connections=0, loop_delay=Durations())
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = self.socket.getsockname()
        self.limits = Limits(**limits)
        self.thread = threading.Thread(target=lambda: uvloop.run(self._run()))
        self.started = threading.Event()

    async def _run(self):
        self.app.server = RestServer(self.app, self.socket, self.limits, self.records)
        self.started.set()
        await self.app.server.run_on_socket()

    def __enter__(self):
        self.thread.start()
        self.started.wait()
        return self

    def __exit__(self, *error):
        self.app.hold.set()
        self.app.server.should_exit = True
        self.thread.join()

    def connect(self):
        return socket.create_connection(self.address, timeout=30)


def answer(connection):
    """Return status and JSON of what comes, until the connection ends."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_all_that_wait_are_accepted_at_once(monkeypatch):
    accepted = []

    def accept(self):
        before = self._records.connections
        original(self)
        accepted.append(self._records.connections - before)

    original = RestServer._accept
    monkeypatch.setattr(RestServer, "_accept", accept)
    with Running() as server, contextlib.ExitStack() as stack:
        first = stack.enter_context(server.connect())
        server.app.hold.clear()  # nothing is accepted while the others come
        first.sendall(b"GET /hold HTTP/1.1\r\nHost: localhost\r\n\r\n")
        server.app.held.wait()
        waiting = [stack.enter_context(server.connect()) for _ in range(200)]
        server.app.hold.set()
        for connection in waiting:
            connection.sendall(GET)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert len(accepted) < 20  # where one a turn would be 201


def test_what_connections_wait_for_is_counted():
    with Running() as server, server.connect() as connection:
        server.app.hold.clear()
        connection.sendall(b"GET /hold HTTP/1.1\r\nHost: localhost\r\n\r\n")
        server.app.held.wait()
        threading.Event().wait(0.5)  # what the loop is held up for
        server.app.hold.set()
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        above = BOUNDS.index(0.2) + 1
        while not sum(server.records.loop_delay.histogram().counts[above:]):
            threading.Event().wait(0.01)


def test_one_connection_too_many_is_told_so():
    with Running(max_connections=2) as server, contextlib.ExitStack() as stack:
        for _ in range(2):
            kept = stack.enter_context(server.connect())
            kept.sendall(GET)
            assert kept.recv(1000).startswith(b"HTTP/1.1 200")
        with server.connect() as refused:
            status, content = answer(refused)
        assert status == 503
        assert "too many connections" in content["error"]
        assert server.records.refused_connections == 1
        kept.sendall(GET)
        assert kept.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\nX: ",
        b"GET /",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;x=",
    ],
)
def test_a_header_without_end_is_refused(start):
    with Running() as server, server.connect() as connection:
        connection.sendall(start)
        with contextlib.suppress(OSError):  # it is closed before all is sent
            for _ in range(100):
                connection.sendall(b"x" * (HEADER_BYTES // 10))
        with contextlib.suppress(OSError):
            status, content = answer(connection)
            assert status == 431
            assert str(HEADER_BYTES) in content["error"]
        assert server.thread.is_alive()
        with server.connect() as other:
            other.sendall(GET)
            assert other.recv(1000).startswith(b"HTTP/1.1 200")


def test_many_headers_are_counted_together():
    with Running() as server, server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        for number in range(HEADER_BYTES // 1000 + 1):
            connection.sendall(f"X-{number}: {'x' * 1000}\r\n".encode())
        assert answer(connection)[0] == 431


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: local"])
def test_a_slow_header_is_refused(monkeypatch, sent):
    monkeypatch.setattr(http_module, "HEADER_SECONDS", 0.1)
    with Running() as server, server.connect() as connection:
        connection.sendall(sent)
        status, content = answer(connection)
        assert status == 408
        assert "send it faster" in content["error"]


def test_a_connection_may_be_idle_between_requests_and_slow_in_a_body(monkeypatch):
    monkeypatch.setattr(http_module, "HEADER_SECONDS", 0.1)
    with Running() as server:
        connection = http.client.HTTPConnection(*server.address, timeout=30)
        for _ in range(2):
            connection.putrequest("POST", "/")
            connection.putheader("Content-Length", "3")
            connection.endheaders()
            threading.Event().wait(0.3)  # three times what a header may take
            connection.send(b"abc")
            assert connection.getresponse().read() == b"yes"
            threading.Event().wait(0.3)
        connection.putrequest("GET", "/")
        threading.Event().wait(0.01)
        connection.endheaders()
        assert connection.getresponse().read() == b"yes"
        connection.close()
