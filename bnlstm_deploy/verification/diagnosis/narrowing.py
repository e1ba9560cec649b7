"""The smallest part of a failing input that still fails: one stream, the shortest sequence."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.signature import BATCH, TIME, Array
from bnlstm_deploy.verification.judging.comparison import distance, largest
from bnlstm_deploy.verification.measuring.least import least
from bnlstm_deploy.verification.measuring.process import Graph
from bnlstm_deploy.verification.measuring.trial import Run

STREAMS_TRIED = 3
"""Streams that are tried alone, those with the largest errors first."""

TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Minimal:
    """The smallest failing part that was found."""

    feeds: Mapping[str, Array]
    expected: Mapping[str, Array]
    """The truth's outputs."""
    actual: Mapping[str, Array]
    """The graph's outputs."""
    stream: int | None
    """The stream that was kept, or None if all were: none of them fails alone."""
    time: int | None
    """Timesteps kept; None if the graph has no time axis to cut."""


def excess(
    actual: Mapping[str, Array], expected: Mapping[str, Array], tolerance: Mapping[str, float]
) -> float:
    """Return the largest error as a multiple of what is allowed; infinite for NaN.

    Args:
        actual: Outputs by name.
        expected: The true outputs; those that are not in `tolerance` are not judged.
        tolerance: The largest error that is allowed of each output.
    """
    worst = largest(
        distance(actual[name], expected[name]) / max(allowed, TINY)
        for name, allowed in tolerance.items()
        if name in expected
    )
    return math.inf if math.isnan(worst) else worst


def narrow(
    graph: Graph,
    feeds: Mapping[str, Array],
    run: Run,
    truth: Run,
    tolerance: Mapping[str, float],
    lengths: Collection[str] = (),
) -> Minimal | None:
    """Find the smallest part of `feeds` that still fails, by running parts of it.

    Args:
        graph: The deployed graph, for its names and shapes.
        feeds: Inputs by name.
        run: Runs the deployed graph.
        truth: Runs the model that it should be.
        tolerance: The largest error that is allowed of each output.
        lengths: Names of the model's own inputs that are valid timesteps.

    Returns:
        The smallest part; None if `feeds` themselves do not fail.
    """
    expected, actual = truth(feeds), run(feeds)
    if excess(actual, expected, tolerance) <= 1:
        return None
    whole = Minimal(feeds, expected, actual, None, time_of(graph, feeds))

    def tried(part: Mapping[str, Array], stream: int | None, time: int | None) -> Minimal | None:
        try:
            minimal = Minimal(part, truth(part), run(part), stream, time)
        except RuntimeSessionError:  # a broken graph may be one that takes no other sizes
            return None
        failing = excess(minimal.actual, minimal.expected, tolerance) > 1
        return minimal if failing else None

    best = whole
    for stream in worst_streams(graph, whole, tolerance):
        found = tried(stream_of(graph, feeds, stream), stream, whole.time)
        if found is not None:
            best = found
            break
    if best.time is None:
        return best

    def shorter(time: int) -> Minimal | None:
        return tried(prefix(graph, best.feeds, time, lengths), best.stream, time)

    return least(shorter, best.time - 1) or best


def time_of(graph: Graph, feeds: Mapping[str, Array]) -> int | None:
    """Return T of inputs, or None if they have no time axis that can be told."""
    return graph.metadata.length or graph.signature.sizes(feeds).get(TIME)


def stream_of(graph: Graph, feeds: Mapping[str, Array], stream: int) -> dict[str, Array]:
    """Return the inputs of one stream."""
    axes = graph.signature.batch_axes
    return {
        name: array.take([stream], axis=axes[name]) if name in axes else array
        for name, array in feeds.items()
    }


def prefix(
    graph: Graph, feeds: Mapping[str, Array], time: int, lengths: Collection[str] = ()
) -> dict[str, Array]:
    """Return the first timesteps of the inputs: cut, or by `lengths` where T is fixed."""
    cut = dict(feeds) | {name: np.minimum(feeds[name], time) for name in lengths}
    signature = graph.signature
    if signature.length is None:
        for name in signature.time_axes.keys() & feeds:
            cut[name] = feeds[name].take(np.arange(time), signature.time_axes[name])
    for name in signature.lengths:
        if name in feeds:
            cut[name] = np.minimum(feeds[name].astype(np.int64), time)
        elif signature.length is not None:
            cut[name] = np.full(num_streams(graph, feeds), time)
    return cut


def num_streams(graph: Graph, feeds: Mapping[str, Array]) -> int:
    """Return N; 1 if the inputs do not tell."""
    return graph.signature.sizes(feeds).get(BATCH, 1)


def worst_streams(graph: Graph, whole: Minimal, tolerance: Mapping[str, float]) -> list[int]:
    """Return the streams with the largest errors, the largest first; few, or none to choose."""
    if not any(BATCH in value.shape for value in graph.inputs):
        return []
    number = num_streams(graph, whole.feeds)
    worst = np.zeros(number)
    for name, axis in graph.signature.batch_axes.items():
        if name in tolerance and name in whole.expected:
            one, other = (o[name].astype(np.float64) for o in (whole.actual, whole.expected))
            if one.shape != other.shape or one.shape[axis] != number:
                continue
            errors = np.moveaxis(np.abs(one - other), axis, 0).reshape(number, -1)
            worst = np.fmax(worst, np.nan_to_num(errors.max(axis=1, initial=0), nan=np.inf))
    return [int(stream) for stream in np.argsort(-worst, kind="stable")[:STREAMS_TRIED]]
