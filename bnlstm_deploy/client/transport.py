"""Requests over connections that are kept, and what is known of one that failed.

tritonclient's own connections may be used by one thread only, and some versions repeat a request
whose answer was lost without saying so. A sequence that the server holds would advance twice.
"""

import contextlib
import select
import socket
from collections import deque
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from bnlstm_deploy.client.answers import Answer, LateError, LostError, UnsentError
from bnlstm_deploy.errors import InputError

JSON_LENGTH = "Inference-Header-Content-Length"
"""The header that says where JSON ends and the binary tensors begin."""

SCHEMES: Mapping[str, type[HTTPConnection]] = {"http": HTTPConnection, "https": HTTPSConnection}


class Transport:
    """Connections to one server; may be used by several threads.

    Args:
        url: `http://host:port`, or `https://`, and a path if the server is below one.
        token: The bearer token of every request; None for none.

    Raises:
        InputError: The address is not one.
    """

    def __init__(self, url: str, token: str | None) -> None:
        try:
            parts = urlsplit(url)
            self._port = parts.port
        except ValueError as error:
            raise InputError(f"the address {url!r} is not valid: {error}") from error
        if parts.scheme not in SCHEMES or not parts.hostname or parts.query or parts.fragment:
            raise InputError(f"the address is {url!r}; pass one such as http://127.0.0.1:8080")
        self.url = url
        self._make = SCHEMES[parts.scheme]
        self._host = parts.hostname
        self._path = parts.path.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._idle: deque[HTTPConnection] = deque()  # its append and pop are atomic

    def send(
        self,
        method: str,
        path: str,
        *,
        timeout: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request, once, and return whatever is answered.

        Args:
            method: Of HTTP.
            path: Below the server's address.
            timeout: Seconds to wait for the server.
            body: The body, if there is one.
            headers: Beside the token.

        Raises:
            UnsentError: The server cannot be reached.
            LostError: There is no answer; the server may have seen the request.
        """
        connection = self._connection(timeout)
        try:
            # A server that refuses a large body answers and closes before it has read all of it.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                everything = {**self._headers, **(headers or {})}
                connection.request(method, f"{self._path}/{path}", body, everything)
            response = connection.getresponse()
            content = response.read()
        except TimeoutError as error:
            connection.close()
            raise LateError(f"{self.url} did not answer within {timeout:.3g} s") from error
        except (OSError, HTTPException) as error:
            connection.close()
            raise LostError(f"the connection to {self.url} broke: {_words(error)}") from error
        except BaseException:  # such as KeyboardInterrupt: the answer is still to come
            connection.close()
            raise
        length = response.getheader(JSON_LENGTH, "")
        if connection.sock is not None:  # the server keeps it open
            self._idle.append(connection)
        return Answer(response.status, int(length) if length.isdecimal() else None, content)

    def close(self) -> None:
        """Close the connections that are not in use."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _connection(self, timeout: float) -> HTTPConnection:
        """Return an open connection: the one used last, because the server keeps it longest."""
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if connection.sock is not None and not _readable(connection.sock):
                    connection.sock.settimeout(timeout)
                    return connection
                connection.close()
        connection = self._make(self._host, self._port, timeout=timeout)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise UnsentError(f"{self.url} cannot be reached: {_words(error)}") from error
        return connection


def _readable(sock: socket.socket) -> bool:
    """Whether something arrived at an idle connection: its end, since nothing was asked."""
    poll = select.poll()  # select.select takes no descriptors above 1023
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
