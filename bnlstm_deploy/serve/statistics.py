"""The statistics extension of the protocol, as Triton has it: nanoseconds by model."""

from typing import Any

from bnlstm_deploy.serve.stats import Histogram, ModelStats, ServerStats

NS = 1_000_000_000
MS = 1000


def statistics(stats: ServerStats, name: str = "", version: str | None = None) -> dict[str, Any]:
    """Return what models did so far.

    Triton counts a request's input and output apart from its run; here they are part of the request
    alone, whose whole time is that of `success`.

    Args:
        stats: Of the server.
        name: The model; all of them by default.
        version: Of the model; all of them by default.
    """
    return {
        "model_stats": [
            _of(model)
            for model in stats.models
            if model.engine is not None
            and name in ("", model.name)
            and version in (None, "", model.version)
        ]
    }


def _of(model: ModelStats) -> dict[str, Any]:
    engine, requests = model.engine, model.requests
    assert engine is not None
    none = {"count": 0, "ns": 0}
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": int(requests.last * MS),
        "inference_count": engine.inferences,
        "execution_count": engine.executions,
        "inference_stats": {
            "success": _duration(requests.answered),
            "fail": {"count": sum(requests.failed.values()), "ns": 0},
            "queue": _duration(engine.queue_seconds),
            "compute_input": none,
            "compute_infer": _duration(engine.compute_seconds),
            "compute_output": none,
            "cache_hit": none,
            "cache_miss": none,
        },
        "batch_stats": [],
    }


def _duration(histogram: Histogram) -> dict[str, int]:
    return {"count": sum(histogram.counts), "ns": int(histogram.total * NS)}
