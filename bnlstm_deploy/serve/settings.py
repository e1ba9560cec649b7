"""What a server is told beside its models."""

from dataclasses import dataclass, field
from ipaddress import ip_address

from bnlstm_deploy.serve.limits import Limits

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Settings:
    """Limits and access, the same for all models of a server."""

    limits: Limits = field(default_factory=Limits)
    token: str | None = field(default=None, repr=False)
    """The bearer token that requests must carry; None lets everybody in."""
    hosts: frozenset[str] | None = None
    """The names of the server, of which one must be in a request's Host; None for any."""


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
