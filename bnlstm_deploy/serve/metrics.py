"""What a server did, as Prometheus reads it."""

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from bnlstm_deploy.serve.stats import BOUNDS, Histogram, ServerStats

LABELS = ("model", "version")

COUNTERS = {
    "executions": "Runs of a model's graph.",
    "inferences": "Streams in these runs; divided by executions, the mean batch.",
}
GAUGES = {
    "queued": "Requests that wait.",
    "sequences": "Sequences whose states are held.",
}
HISTOGRAMS = {
    "queue_seconds": "How long each request waited for its run.",
    "compute_seconds": "How long each run took.",
}
"""Fields of an engine's Stats, and what they are."""

LE = tuple(map(str, (*BOUNDS, "+Inf")))


def exposition(stats: ServerStats, accept: str, *, process: bool) -> tuple[bytes, str]:
    """Return the metrics as text, and its content type.

    Args:
        stats: Of the server.
        accept: What the client takes.
        process: Whether this process is all of the server: its memory, time and garbage are
            metrics, too.
    """
    registry = CollectorRegistry()
    registry.register(_Collector(stats))
    if process:
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
    try:
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type
    except (TypeError, ValueError):  # a version that nobody has
        encode, content_type = choose_encoder("")
        return encode(registry), content_type


class _Collector(Collector):
    def __init__(self, stats: ServerStats) -> None:
        self.stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self.stats
        yield from self._requests()
        engines = {(m.name, m.version): m.engine for m in stats.models if m.engine is not None}
        for family, fields in ((CounterMetricFamily, COUNTERS), (GaugeMetricFamily, GAUGES)):
            for field, text in fields.items():
                metric = family(f"bnlstm_{field}", text, labels=LABELS)
                for labels, values in engines.items():
                    metric.add_metric(labels, getattr(values, field))
                yield metric
        for field, text in HISTOGRAMS.items():
            yield _histogram(
                field, text, [(key, getattr(values, field)) for key, values in engines.items()]
            )
        yield GaugeMetricFamily(
            "bnlstm_connections", "HTTP connections that are open.", stats.connections
        )
        yield CounterMetricFamily(
            "bnlstm_connections_refused",
            "HTTP connections that were closed at once, for there were too many.",
            stats.refused_connections,
        )
        yield CounterMetricFamily(
            "bnlstm_log_lines_dropped",
            "Lines of the log that nobody read in time.",
            stats.dropped_lines,
        )

        counts, total = stats.loop_delay
        yield HistogramMetricFamily(
            "bnlstm_loop_delay_seconds",
            "How late the event loop was: what new connections wait for.",
            list(zip(LE, accumulate(counts), strict=True)),
            total,
        )

    def _requests(self) -> Iterator[Metric]:
        models = {(model.name, model.version): model.requests for model in self.stats.models}
        received = CounterMetricFamily("bnlstm_requests", "Inference requests.", labels=LABELS)
        failed = CounterMetricFamily(
            "bnlstm_request_failures",
            "Inference requests that were answered with an error, or left by their client.",
            labels=(*LABELS, "reason"),
        )
        for key, requests in models.items():
            received.add_metric(key, requests.received)
            for reason, number in requests.failed.items():
                failed.add_metric((*key, reason), number)
        yield received
        yield failed
        yield _histogram(
            "request_seconds",
            "From a request's header to its answer, of those answered without an error.",
            [(key, requests.answered) for key, requests in models.items()],
        )


def _histogram(
    field: str, text: str, values: Iterable[tuple[tuple[str, str], Histogram]]
) -> HistogramMetricFamily:
    metric = HistogramMetricFamily(f"bnlstm_{field}", text, labels=LABELS)
    for labels, (counts, total) in values:
        metric.add_metric(labels, list(zip(LE, accumulate(counts), strict=True)), total)
    return metric
