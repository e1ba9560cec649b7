"""What the engines did, as Prometheus reads it."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.stats import BOUNDS

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
        for field, text in HISTOGRAMS.items():
            histogram = HistogramMetricFamily(f"bnlstm_{field}", text, labels=LABELS)
            for labels, values in stats.items():
                counts, total = getattr(values, field)
                histogram.add_metric(labels, list(zip(LE, accumulate(counts), strict=True)), total)
            yield histogram
