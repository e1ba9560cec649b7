"""Runs debug copies of a graph, and collects all values in them that introduce error."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import torch
from torch import nn

from bnlstm_deploy.dtypes import EPS
from bnlstm_deploy.folding import fold
from bnlstm_deploy.runtime.providers import Provider
from bnlstm_deploy.signature import Array
from bnlstm_deploy.verification.diagnosis.intermediates import CELL, IN_SCAN, DebugGraph, NodeValues
from bnlstm_deploy.verification.diagnosis.judge import Judge, joined, layer_input
from bnlstm_deploy.verification.diagnosis.narrowing import Minimal, excess
from bnlstm_deploy.verification.diagnosis.origin import Origin, origin_of
from bnlstm_deploy.verification.diagnosis.places import Place, bnlstms
from bnlstm_deploy.verification.diagnosis.recompute import Rounding, Value, exact
from bnlstm_deploy.verification.diagnosis.surroundings import RecurrentOutputs, Surroundings
from bnlstm_deploy.verification.judging.comparison import distance, largest
from bnlstm_deploy.verification.measuring.approximation import approximation_in
from bnlstm_deploy.verification.measuring.process import Graph

OUTSIDE_ERROR = 8.0
"""Times the float32 error of the model around its recurrent layers that a graph is granted there;
and twice as many ULP."""


VALUES = 15
"""Numbers in all intermediates of a timestep, as multiples of H."""

AT_ONCE = 2**22
"""Numbers of intermediates that are looked at all at once; of longer runs it is one kind a run."""


def trace(
    model: nn.Module,
    graph: Graph,
    proto: onnx.ModelProto,
    nodes: Mapping[Place, onnx.NodeProto],
    minimal: Minimal,
    tolerance: Mapping[str, float],
    providers: Sequence[Provider],
) -> tuple[bool, list[Origin]]:
    """Find the values that introduce error, if the debug copy fails as the graph does.

    Args:
        model: The training model.
        graph: The deployed graph, for its names and metadata.
        proto: The file.
        nodes: The node of each layer and direction, in the order in which the graph runs them.
        minimal: The smallest failing input.
        tolerance: The largest error that is allowed of each output.
        providers: On which to run the debug copies.

    Returns:
        Whether the debug copy fails, and the values that introduce error, in the order of the
        graph; of each node the first timestep only.

    Raises:
        RuntimeSessionError: A debug copy cannot be run.
        FoldError: The model cannot be folded.
    """
    outputs, own = DebugGraph(proto, nodes, [CELL], providers).run(minimal.feeds)
    if excess(outputs, minimal.expected, tolerance) <= 1:
        return False, []
    dtype = graph.metadata.dtype
    left = _left(own)
    calls, around = Surroundings(model, graph, torch.float64).run(minimal.feeds, left)
    calls_32, around_32 = Surroundings(model, graph, torch.float32).run(minimal.feeds, left)

    def bounded(value: Array, rounded: Array) -> Value:
        exact_value = value.astype(np.float64)
        noise = distance(rounded, exact_value) / EPS["float32"]
        error = OUTSIDE_ERROR * EPS[dtype] * (noise + 2 * largest(np.abs(exact_value)))
        return Value(exact_value, np.full(value.shape, error))

    found: list[Origin] = []
    approximation = approximation_in(model, proto, graph.metadata)
    folds = {
        path: approximation.apply(fold(module), path) for path, module in bnlstms(model).items()
    }
    for place, node in nodes.items():
        call = calls[place.path]
        x = bounded(call.x, calls_32[place.path].x)
        if place.layer > 0:
            x = layer_input(own, place, call.lengths)
        direction = folds[place.path].layers[place.layer][int(place.reverse)]
        judge = Judge(place, direction, own[place], call, x, Rounding.of(dtype))

        small = own[place].y.size * VALUES <= AT_ONCE
        shown: dict[str, Array | None] = {}

        def values(
            kind: str,
            place: Place = place,
            node: onnx.NodeProto = node,
            shown: dict[str, Array | None] = shown,
            small: bool = small,
        ) -> Array | None:
            if kind not in shown:
                kinds = list(IN_SCAN) if small else [kind]
                one = DebugGraph(proto, {place: node}, kinds, providers).run(minimal.feeds)[1]
                shown.update(dict.fromkeys(kinds) | dict(one[place].inner))
            return shown.get(kind) if small else shown.pop(kind)

        found += judge.origins(values)
    return True, found + list(_outside(graph, around, around_32, outputs, bounded))


def _outside(
    graph: Graph,
    expected: Mapping[str, Array],
    rounded: Mapping[str, Array],
    actual: Mapping[str, Array],
    bounded: Callable[[Array, Array], Value],
) -> Iterator[Origin]:
    """Yield the outputs that are not what the model makes of the graph's own recurrent values."""
    axes = graph.signature.batch_axes
    for name, value in expected.items():
        given = actual[name]
        wanted = exact(value) if value.dtype.kind != "f" else bounded(value, rounded[name])
        if name in axes and given.shape == value.shape:
            wanted = Value(*(np.moveaxis(part, axes[name], 0) for part in wanted))
            given = np.moveaxis(given, axes[name], 0)
        yield from origin_of(name, wanted, given)


def _left(own: Mapping[Place, NodeValues]) -> dict[str, RecurrentOutputs]:
    """What the graph's nodes gave, by the path of the BNLSTM."""
    left: dict[str, RecurrentOutputs] = {}
    for path in {place.path for place in own}:
        of_path = {p: own[p] for p in sorted(own, key=lambda p: p.row) if p.path == path}
        last = max(place.layer for place in of_path)
        top = {p: o for p, o in of_path.items() if p.layer == last}
        first = next(iter(of_path.values()))
        time, batch = first.y.shape[:2]
        lengths = first.inputs.get("lengths", np.array([time])).astype(np.int64)
        output = joined(top, np.broadcast_to(np.minimum(lengths, time), (batch,)))
        h, c = (np.stack([getattr(o, name) for o in of_path.values()]) for name in ("y_h", "y_c"))
        left[path] = RecurrentOutputs(output, h, c)
    return left
