"""Requests over connections that are kept, and what is known of one that failed.

tritonclient's own connections may be used by one thread only, and some versions repeat a request
whose answer was lost without saying so. A sequence that the server holds would advance twice.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
)

from bnlstm_deploy.client.answers import Answer, LateError, LostError, UnsentError
from bnlstm_deploy.errors import InputError

JSON_LENGTH = "Inference-Header-Content-Length"
"""The header that says where JSON ends and the binary tensors begin."""

MOST_IDLE = 256
"""Connections that are kept, one for each thread that sends at a time."""


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
            valid = parts.port != 0  # which is read, and raises, only now
        except ValueError as error:
            raise InputError(f"the address {url!r} is not valid: {error}") from error
        valid = valid and parts.scheme in ("http", "https") and bool(parts.hostname)
        if not valid or parts.query or parts.fragment:
            raise InputError(f"the address is {url!r}; pass one such as http://127.0.0.1:8080")
        self.url = url
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=MOST_IDLE)

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
        try:
            response = self._pool.urlopen(
                method,
                f"{self.url.rstrip('/')}/{path}",
                body=body,
                headers={**self._headers, **(headers or {})},
                timeout=timeout,
                retries=False,
                redirect=False,
            )
        except (NewConnectionError, ConnectTimeoutError) as error:
            raise UnsentError(f"{self.url} cannot be reached: {_words(error)}") from error
        except ReadTimeoutError as error:
            raise LateError(f"{self.url} did not answer within {timeout:.3g} s") from error
        except HTTPError as error:
            raise LostError(f"the connection to {self.url} broke: {_words(error)}") from error
        length = response.headers.get(JSON_LENGTH, "")
        return Answer(response.status, int(length) if length.isdecimal() else None, response.data)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._pool.clear()


def _words(error: Exception) -> str:
    """Return what happened, without urllib3's own words for where."""
    cause = error.__cause__ or error.__context__ or error
    return str(cause) or type(cause).__name__
