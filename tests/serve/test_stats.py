"""Histograms of seconds, and what several workers did."""

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram

from bnlstm_deploy.serve.stats import (
    BOUNDS,
    Durations,
    ModelStats,
    RequestCounter,
    ServerStats,
    Stats,
    together,
)


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


def counted(seconds):
    durations = Durations()
    for second in seconds:
        durations.add(second)
    return durations.histogram()


def test_histograms_add_up():
    assert counted([0.1, 3.0]) + counted([0.2]) == counted([0.1, 3.0, 0.2])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_quantiles_are_in_the_right_span(share):
    seconds = np.random.default_rng(0).lognormal(-5, 1.5, 1000)
    found, right = counted(seconds).quantile(share), np.quantile(seconds, share)
    edges = (0, *BOUNDS, 2 * BOUNDS[-1])
    at = np.searchsorted(edges, right)
    assert edges[max(at - 2, 0)] <= found <= edges[min(at + 1, len(edges) - 1)]
    assert counted([]).quantile(share) is None


def test_what_workers_did_is_added_up(monkeypatch):
    now = [100.5]
    monkeypatch.setattr("time.time", lambda: now[0])
    one, other, both = RequestCounter(), RequestCounter(), RequestCounter()
    for counter, at, seconds, reason in (
        (one, 100.5, 0.1, None),
        (other, 101.0, 0.2, "invalid"),
        (other, 101.5, 0.3, None),
        (one, 107.0, 0.4, "invalid"),
    ):
        now[0] = at
        counter.add(seconds, reason)
        both.add(seconds, reason)
    assert one.requests() + other.requests() == both.requests()
    assert other.requests() + one.requests() == both.requests()
    assert [(span.at, span.failed) for span in both.requests().spans] == [(100, 1), (106, 1)]
    assert both.requests().last == 107.0


def stats(name, requests):
    nothing = counted([])
    engine = Stats(1, 2, 3, nothing, nothing, {}, 4, 5, ())
    models = (ModelStats(name, "1", True, requests, engine),)
    return ServerStats(models, 6, 7, 8, counted([0.01]))


def test_models_of_workers_are_matched_by_name():
    requests = RequestCounter().requests()
    whole = together([stats("b", requests), stats("a", requests), stats("b", requests)])
    assert [(model.name, model.engine.executions) for model in whole.models] == [("a", 2), ("b", 4)]
    assert (whole.connections, whole.refused_connections, whole.dropped_lines) == (18, 21, 24)
    assert whole.loop_delay == counted([0.01] * 3)
