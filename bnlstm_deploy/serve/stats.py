"""What an engine tells of its work."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

RECENT = 512
"""Executions that are remembered."""


class Execution(NamedTuple):
    """One run of the graph."""

    at: float
    """When it ended, in seconds since the epoch."""
    queue_seconds: float
    """How long the request that came first had waited."""
    compute_seconds: float
    streams: int
    """The size of the batch."""


@dataclass(frozen=True)
class Stats:
    """What an engine did so far, at one moment."""

    requests: int
    """Accepted."""
    executions: int
    """Runs of the graph; `inferences / executions` is the mean batch."""
    inferences: int
    """Streams in all of them."""
    queue_seconds: float
    """How long requests waited for their runs, in sum."""
    compute_seconds: float
    """How long the runs took, in sum."""
    failures: Mapping[str, int]
    """Requests that were not answered, by the class of the error."""
    queued: int
    """Requests that wait."""
    sequences: int
    """Sequences whose state is held."""
    recent: tuple[Execution, ...]
    """The last executions, the latest at the end."""
