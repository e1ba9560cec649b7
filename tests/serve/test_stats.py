"""Histograms of seconds."""

from prometheus_client import CollectorRegistry, Histogram

from bnlstm_deploy.serve.stats import BOUNDS, Durations


def test_counts_are_those_of_prometheus():
    seconds = (0.0, 0.0001, 0.00011, 0.3, 30.0, 31.0, 1e9)
    durations = Durations()
    peer = Histogram("peer", "", buckets=BOUNDS, registry=CollectorRegistry())
    for second in seconds:
        durations.add(second)
        peer.observe(second)
    (metric,) = peer.collect()
    buckets = [s.value for s in metric.samples if s.name == "peer_bucket"]
    counts, total = durations.histogram()
    assert [sum(counts[: i + 1]) for i in range(len(counts))] == buckets
    assert total == sum(seconds)
