"""What an engine tells of its work."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

BOUNDS = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)
"""Seconds up to which a histogram counts; the last of its counts is of all above."""

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


class Histogram(NamedTuple):
    """How often something took how long."""

    counts: tuple[int, ...]
    """For each of BOUNDS, how often it took that long but longer than the bound before; and above
    the last one."""
    total: float
    """Seconds, in sum."""


class Durations:
    """Counts durations into a Histogram."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._total = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._total += seconds

    def histogram(self) -> Histogram:
        """Return what was counted so far."""
        return Histogram(tuple(self._counts[i] for i in range(len(BOUNDS) + 1)), self._total)


@dataclass(frozen=True)
class Stats:
    """What an engine did so far, at one moment."""

    requests: int
    """Accepted."""
    executions: int
    """Runs of the graph; `inferences / executions` is the mean batch."""
    inferences: int
    """Streams in all of them."""
    queue_seconds: Histogram
    """How long each request waited for its run."""
    compute_seconds: Histogram
    """How long each run took."""
    failures: Mapping[str, int]
    """Requests that were not answered, by the class of the error."""
    queued: int
    """Requests that wait."""
    sequences: int
    """Sequences whose state is held."""
    recent: tuple[Execution, ...]
    """The last executions, the latest at the end."""
