"""What the engines did, as Prometheus reads it."""

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bnlstm_deploy.serve.engine import Engine

LABELS = ("model", "version")

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Bounds of histograms of a request's seconds."""

COUNTERS = {
    "executions": "Runs of a model's graph.",
    "inferences": "Streams in these runs; divided by executions, the mean batch.",
    "queue_seconds": "How long requests waited for their runs.",
    "compute_seconds": "How long the runs took.",
}
GAUGES = {
    "queued": "Requests that wait.",
    "sequences": "Sequences whose states are held.",
}
"""Fields of an engine's Stats, and what they are."""


class EngineCollector(Collector):
    """Reads the engines' own counts when Prometheus asks.

    Args:
        engines: The engines.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = engines

    def describe(self) -> Iterable[Metric]:
        """Return nothing: names are known when engines are asked, not before."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of now."""
        stats = {(engine.name, engine.version): engine.stats() for engine in self.engines}
        for family, fields in ((CounterMetricFamily, COUNTERS), (GaugeMetricFamily, GAUGES)):
            for field, text in fields.items():
                metric = family(f"bnlstm_{field}", text, labels=LABELS)
                for labels, values in stats.items():
                    metric.add_metric(labels, getattr(values, field))
                yield metric
