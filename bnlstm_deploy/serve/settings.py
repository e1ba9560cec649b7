"""What a server is told beside its models."""

import os
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.serve.limits import Limits

TOKEN_VARIABLE = "BNLSTM_DEPLOY_TOKEN"
"""The environment variable that holds the token. A command line is no place: all users see it."""

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Settings:
    """Limits and access, the same for all models of a server."""

    limits: Limits = field(default_factory=Limits)
    token: str | None = field(default=None, repr=False)
    """The bearer token that requests must carry; None lets everybody in."""
    hosts: frozenset[str] | None = None
    """The names of the server, of which one must be in a request's Host; None for any."""


def read_token(file: Path | None) -> str | None:
    """Return the token of a file, else that of the environment, else None.

    Raises:
        InputError: The file cannot be read as text, or the token is empty or not printable ASCII.
    """
    source = TOKEN_VARIABLE if file is None else str(file)
    try:
        token = os.environ.get(TOKEN_VARIABLE) if file is None else file.read_text("ascii")
    except (OSError, UnicodeError) as error:
        raise InputError(f"the token file {source} cannot be read as ASCII: {error}") from error
    if token is None:
        return None
    token = token.strip()
    if not (token.isascii() and token.isprintable() and token):
        raise InputError(
            f"the token in {source} is empty or has characters that are not printable ASCII; "
            "write one such as that of: openssl rand -hex 32"
        )
    return token


def local_names(host: str) -> frozenset[str] | None:
    """Return the names that requests to a host of this machine alone can have; None for others.

    A page of another site can have its own name mean 127.0.0.1, and so ask what listens there: such
    requests have that name in their header Host.
    """
    try:
        is_local = ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    return frozenset((*LOCAL_NAMES, host)) if is_local else None
