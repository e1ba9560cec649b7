"""Mistakes that people make in an export, made in the model: which gives what the graph gives?"""

import copy
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from bnlstm_deploy.errors import FoldError
from bnlstm_deploy.exporting.export import approximation_of, fold_layers
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.signature import Array
from bnlstm_deploy.verification.diagnosis.narrowing import Minimal, excess
from bnlstm_deploy.verification.diagnosis.places import Place, bnlstms, places
from bnlstm_deploy.verification.measuring.process import Graph
from bnlstm_deploy.verification.measuring.trial import TorchModel

EXPLAINED = 0.5
"""Part of the error that a confirmed mistake leaves unexplained at most, however loose the
tolerance is."""

PROMISING = 0.2
"""The same on the smallest failing input, from which on all inputs are tried."""

ROUNDINGS = 8.0
"""Times its own float32 error that the mistaken model may be off."""

EPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 0.0)

GATES = "ifgo"

Change = Callable[[BNLSTM, str], None]
"""Makes a mistake in the layer and direction whose parameters have a suffix."""


@dataclass(frozen=True)
class Confirmed:
    """A mistake that explains the outputs of the graph."""

    name: str
    residual: float
    """Largest error that it leaves, as a multiple of what is allowed."""
    unexplained: float
    """The same as a part of the observed error."""

    def __str__(self) -> str:
        return f"{self.name} (leaves {self.unexplained:.1%} of the error)"


def confirmed_mistakes(
    model: nn.Module,
    graph: Graph,
    minimal: Minimal,
    whole: Minimal,
    tolerance: Mapping[str, float],
    suspects: Collection[Place],
) -> tuple[list[Confirmed], int]:
    """Return the mistakes that explain a failure, those that explain the most first.

    Args:
        model: The training model.
        graph: The deployed graph, for its names and metadata.
        minimal: The smallest failing input.
        whole: The whole failing input.
        tolerance: The largest error that is allowed of each output.
        suspects: Layers and directions that introduce error, all of them; none if they are not
            known. A mistake in one of several alone would leave the errors of the others.

    Returns:
        What is confirmed, and how many mistakes were tried.
    """
    every = list(places(model))
    scopes: list[tuple[str, Collection[Place]]] = [("", every)]
    if suspects and len(suspects) < len(every):
        scopes = [(", everywhere", every), (", in " + " and ".join(map(str, suspects)), suspects)]
    found: list[Confirmed] = []
    tried = 0

    def test(name: str, mistaken: nn.Module, feeds: Sequence[Mapping[str, Array]]) -> None:
        nonlocal tried
        tried += 1
        cases = [replace(case, feeds=f) for case, f in zip((minimal, whole), feeds, strict=True)]
        try:
            left = _left(mistaken, graph, cases, tolerance)
        except FoldError:  # a mistake that this model's numbers do not admit
            return
        if left is not None:
            found.append(Confirmed(name, *left))

    own = [minimal.feeds, whole.feeds]
    for name, change in _mistakes():
        for words, where in scopes:
            mistaken = copy.deepcopy(model).double()
            modules = bnlstms(mistaken)
            with torch.no_grad():
                for place in where:
                    change(modules[place.path], place.suffix)
            test(name + words, mistaken, own)
    test("initial h and c swapped", model, [_swapped_states(graph, feeds) for feeds in own])
    return sorted(found, key=lambda confirmed: confirmed.residual), tried


def _left(
    mistaken: nn.Module, graph: Graph, cases: Sequence[Minimal], tolerance: Mapping[str, float]
) -> tuple[float, float] | None:
    """Return what a mistake leaves of the error and which part of it, if it explains it."""

    def run(case: Minimal, dtype: torch.dtype) -> dict[str, Array]:
        folded = fold_layers(mistaken, dtype, approximation_of(graph.metadata))
        return TorchModel(folded, graph, dtype).run(case.feeds)

    minimal, whole = cases
    error = excess(minimal.actual, minimal.expected, tolerance)
    left = excess(minimal.actual, run(minimal, torch.float64), tolerance)
    if error > 1 and left > max(1.0, PROMISING * error):
        return None
    error = excess(whole.actual, whole.expected, tolerance)
    exact = run(whole, torch.float64)
    left = excess(whole.actual, exact, tolerance)
    if not np.isfinite(left) or left > EXPLAINED * error:
        return None
    if left > 1 and left > ROUNDINGS * excess(run(whole, torch.float32), exact, tolerance):
        return None
    return left, left / error


def _swapped_states(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array]:
    swapped = dict(feeds)
    for entry in graph.metadata.layers:
        h, c = entry.value_name("initial_h"), entry.value_name("initial_c")
        if feeds.keys() >= {h, c}:
            swapped |= {h: feeds[c], c: feeds[h]}
    return swapped


def _mistakes() -> Iterator[tuple[str, Change]]:
    for order in itertools.permutations(GATES):
        if "".join(order) != GATES:
            name = f"gates permuted: the file has them in the order {','.join(order)}"
            yield name, partial(_permute_gates, "".join(order))
    for by, end in ((1, "of step 0 at the last"), (-1, "of the last at step 0")):
        name = f"statistics of step t {'+-'[by < 0]} 1 used at step t"
        yield name, partial(_shift_statistics, by, False)
        yield f"{name}, {end}", partial(_shift_statistics, by, True)
    yield "a forget bias of 1 added", partial(_add_forget_bias, 1.0)
    yield "a forget bias of 1 lost", partial(_add_forget_bias, -1.0)
    for eps in EPS:
        yield f"eps wrong: {eps:g}", partial(_set_eps, eps)


def _permute_gates(order: str, module: BNLSTM, suffix: str) -> None:
    blocks = torch.arange(4 * module.hidden_size).reshape(4, -1)
    index = blocks[[GATES.index(gate) for gate in order]].flatten()
    for name in ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if module.bias else ())):
        parameter = getattr(module, name + suffix)
        parameter.copy_(parameter[index])
    for norm in module.norms(suffix)[:2]:
        for values in () if norm is None else (*norm.parameters(), *norm.buffers()):
            if values.shape[-1:] == index.shape and values.is_floating_point():
                values.copy_(values[..., index])


def _shift_statistics(by: int, wrap: bool, module: BNLSTM, suffix: str) -> None:
    for norm in module.norms(suffix):
        for values in () if norm is None else (*norm.parameters(), *norm.buffers()):
            if values.ndim == 2:
                rows, source = len(values), torch.arange(len(values)) + by
                values.copy_(values[source % rows if wrap else source.clamp(0, rows - 1)])


def _add_forget_bias(added: float, module: BNLSTM, suffix: str) -> None:
    if module.bias:
        size = module.hidden_size
        getattr(module, f"bias_ih{suffix}")[size : 2 * size] += added


def _set_eps(eps: float, module: BNLSTM, suffix: str) -> None:
    for norm in module.norms(suffix):
        if norm is not None:
            norm.eps = eps
