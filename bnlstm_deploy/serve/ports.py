"""Ports that a server listens on."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from bnlstm_deploy.errors import InputError

BACKLOG = 2048
"""Connections that wait to be accepted."""


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """Return a socket that listens, and close it in the end.

    Raises:
        InputError: The port is in use, or the host is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise _refusal(host, port, error) from error
    with listening:
        yield listening


@contextmanager
def reserved(host: str, port: int) -> Iterator[int]:
    """Keep a port for processes that share it; yield its number.

    Raises:
        InputError: It is in use, or the host is not this machine's.
    """
    # Without sharing, a port that another server listens on would be taken for free.
    with listen(host, port) as alone:
        port = alone.getsockname()[1]
    with socket.socket(alone.family, socket.SOCK_STREAM) as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            shared.bind((host, port))
        except OSError as error:
            raise _refusal(host, port, error) from error
        yield port


def _refusal(host: str, port: int, error: OSError) -> InputError:
    return InputError(
        f"cannot listen on port {port} of {host}: {error.strerror}; choose another port or host"
    )
