"""A proxy before a server that loses, refuses and cuts what it is told to."""

import contextlib
import math
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PASS = "pass"
LOSE_REQUEST = "lose the request"
LOSE_ANSWER = "lose the answer"
CUT_ANSWER = "cut the answer"
HANG = "hang"
CLOSE_AFTER = "close the connection after the answer"
REFUSE = (503, b'{"error": "1024 requests are waiting"}')
NO_REPLICA = (503, b"no healthy upstream")
BAD_GATEWAY = (502, b"<html>Bad Gateway</html>")
BROKEN = (500, b"Internal Server Error")

Plan = str | tuple[int, bytes]
"""What to do with a request: one of the words above, or an answer to give without the server."""


@dataclass
class Proxy:
    """A running proxy."""

    upstream: str
    """HOST:PORT of the server."""
    port: int = 0
    plans: deque[Plan] = field(default_factory=deque)
    """What to do with the inference requests to come; those after the last one pass."""
    came: list[HTTPMessage] = field(default_factory=list)
    """The headers of the inference requests that came."""
    passed: int = 0
    """How many of them reached the server."""
    refuses_above: float = math.inf
    """Bytes of a body above which it is refused and not read."""
    released: threading.Event = field(default_factory=threading.Event)
    """Lets those that hang go."""
    closed: threading.Event = field(default_factory=threading.Event)
    """Whether no connection is still to be closed after its answer."""

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def proxy(upstream: str, *plans: Plan, port: int = 0) -> Iterator[Proxy]:
    """Run a proxy."""
    state = Proxy(upstream, plans=deque(plans))
    state.closed.set()

    class Handler(_Handler):
        proxy = state

    server = _Server(("127.0.0.1", port), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.end_connections()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    """Ends open connections when it is closed, as a process that ends does."""

    daemon_threads = False

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.open = set()

    def process_request(self, request, client_address):
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.open.discard(request)
        super().shutdown_request(request)
        self.RequestHandlerClass.proxy.closed.set()

    def end_connections(self):
        for request in list(self.open):
            with contextlib.suppress(OSError):
                request.shutdown(2)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: Proxy

    def do_GET(self):
        self._answer(*self._forward(b""))

    def do_POST(self):
        state = self.proxy
        size = int(self.headers["Content-Length"])
        if size > state.refuses_above:
            self._answer(413, {}, b'{"error": "too large"}')
            self.close_connection = True
            return
        body = self.rfile.read(size)
        state.came.append(self.headers)
        plan = state.plans.popleft() if state.plans else PASS
        if isinstance(plan, tuple):
            status, content = plan
            self._answer(status, {}, content)
            return
        if plan == HANG:
            state.released.wait()
        if plan in (HANG, LOSE_REQUEST):
            self.close_connection = True
            return
        state.passed += 1
        status, headers, content = self._forward(body)
        if plan == LOSE_ANSWER:
            self.close_connection = True
            return
        if plan == CLOSE_AFTER:
            state.closed.clear()
        self._answer(status, headers, content, cut=plan == CUT_ANSWER)
        if plan in (CUT_ANSWER, CLOSE_AFTER):
            self.close_connection = True

    def _forward(self, body):
        connection = HTTPConnection(self.proxy.upstream, timeout=30)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def _answer(self, status, headers, content, *, cut=False):
        self.send_response(status)
        for name in ("Inference-Header-Content-Length", "Content-Type"):
            value = headers.get(name) or headers.get(name.lower())
            if value is not None:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)

    def log_message(self, *arguments):
        pass
