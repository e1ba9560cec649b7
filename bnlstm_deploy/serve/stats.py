"""What engines and servers tell of their work."""

import functools
import operator
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

BOUNDS = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)
"""Seconds up to which a histogram counts; the last of its counts is of all above."""

RECENT = 512
"""Executions that are remembered."""

SPAN = 2.0
"""Seconds of which a server sums up its requests."""

SPANS = 150
"""Such sums that are remembered: five minutes."""


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

    def __add__(self, other: "Histogram") -> "Histogram":  # type: ignore[override]
        """Return the counts of both."""
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Histogram(counts, self.total + other.total)

    def quantile(self, share: float) -> float | None:
        """Return the seconds that a share of all stayed below, about; None of nothing.

        Args:
            share: From 0 to 1.
        """
        wanted = share * sum(self.counts)
        for i, count in enumerate(self.counts):
            if count and wanted <= count:
                low, high = (0.0, *BOUNDS)[i], (*BOUNDS, 2 * BOUNDS[-1])[i]
                return low + (high - low) * wanted / count
            wanted -= count
        return None


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

    def __add__(self, other: "Stats") -> "Stats":
        """Return what two engines of one model did."""
        return Stats(
            self.requests + other.requests,
            self.executions + other.executions,
            self.inferences + other.inferences,
            self.queue_seconds + other.queue_seconds,
            self.compute_seconds + other.compute_seconds,
            Counter(self.failures) + Counter(other.failures),
            self.queued + other.queued,
            self.sequences + other.sequences,
            tuple(sorted(self.recent + other.recent)[-RECENT:]),
        )


class Span(NamedTuple):
    """The requests that ended in SPAN seconds."""

    at: float
    """When they began, in seconds since the epoch; a multiple of SPAN."""
    answered: Histogram
    """How long those took that were answered."""
    failed: int


@dataclass(frozen=True)
class Requests:
    """The requests for one model, however they came, at one moment."""

    received: int
    answered: Histogram
    """How long those took that were answered."""
    failed: Mapping[str, int]
    """Those that were not, by the reason."""
    last: float
    """When the latest one ended, in seconds since the epoch; 0 for never."""
    spans: tuple[Span, ...]
    """The last of them, the latest at the end; none for a time without requests."""

    def __add__(self, other: "Requests") -> "Requests":
        """Return those that two servers had."""
        spans = {span.at: span for span in self.spans}
        for at, answered, failed in other.spans:
            same = spans.get(at)
            if same is None:
                spans[at] = Span(at, answered, failed)
            else:
                spans[at] = Span(at, answered + same.answered, failed + same.failed)
        return Requests(
            self.received + other.received,
            self.answered + other.answered,
            Counter(self.failed) + Counter(other.failed),
            max(self.last, other.last),
            tuple(spans[at] for at in sorted(spans)[-SPANS:]),
        )


class RequestCounter:
    """Counts requests."""

    def __init__(self) -> None:
        self._received = 0
        self._answered = Durations()
        self._failed: Counter[str] = Counter()
        self._last = 0.0
        self._spans: deque[tuple[float, Durations, Counter[str]]] = deque(maxlen=SPANS)

    def add(self, seconds: float, reason: str | None) -> None:
        """Count one that has ended.

        Args:
            seconds: How long it took.
            reason: Why it failed; None if it was answered.
        """
        self._last = time.time()
        at = self._last - self._last % SPAN
        if not self._spans or self._spans[-1][0] != at:
            self._spans.append((at, Durations(), Counter()))
        _, durations, failures = self._spans[-1]
        self._received += 1
        if reason is None:
            self._answered.add(seconds)
            durations.add(seconds)
        else:
            self._failed[reason] += 1
            failures[reason] += 1

    def requests(self) -> Requests:
        """Return what was counted so far."""
        return Requests(
            self._received,
            self._answered.histogram(),
            dict(self._failed),
            self._last,
            tuple(Span(at, d.histogram(), f.total()) for at, d, f in self._spans),
        )


@dataclass(frozen=True)
class ModelStats:
    """One model of a server, at one moment; of what is no model's, name and version are empty."""

    name: str
    version: str
    ready: bool
    requests: Requests
    engine: Stats | None
    """None of what is no model's."""


@dataclass(frozen=True)
class ServerStats:
    """A server at one moment."""

    models: tuple[ModelStats, ...]
    connections: int
    """HTTP connections that are open."""
    refused_connections: int
    """Those that were closed at once, for there were too many."""
    dropped_lines: int
    """Lines of the log that nobody read in time."""
    loop_delay: Histogram
    """How late the event loop was: what a new connection waits for beside the network."""

    def __add__(self, other: "ServerStats") -> "ServerStats":
        """Return what two workers of one server did."""
        models = {(model.name, model.version): model for model in self.models}
        for model in other.models:
            same = models.setdefault((model.name, model.version), model)
            if same is not model:
                models[model.name, model.version] = _both(same, model)
        return ServerStats(
            tuple(models[key] for key in sorted(models)),
            self.connections + other.connections,
            self.refused_connections + other.refused_connections,
            self.dropped_lines + other.dropped_lines,
            self.loop_delay + other.loop_delay,
        )


def together(stats: Sequence[ServerStats]) -> ServerStats:
    """Return what all workers of a server did; of one at least."""
    return functools.reduce(operator.add, stats)


def _both(one: ModelStats, other: ModelStats) -> ModelStats:
    engines = [model.engine for model in (one, other) if model.engine is not None]
    return replace(
        one,
        ready=one.ready and other.ready,
        requests=one.requests + other.requests,
        engine=engines[0] + engines[1] if len(engines) > 1 else next(iter(engines), None),
    )
