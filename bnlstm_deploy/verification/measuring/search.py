"""The search for the inputs on which a graph is worst."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bnlstm_deploy.signature import Array
from bnlstm_deploy.verification.judging.comparison import distance, largest
from bnlstm_deploy.verification.measuring.backend import Backend, OfBackend
from bnlstm_deploy.verification.measuring.cases import Case
from bnlstm_deploy.verification.measuring.checker import Checker
from bnlstm_deploy.verification.measuring.conditions import JITTERS, LONGEST
from bnlstm_deploy.verification.measuring.draw import Draw
from bnlstm_deploy.verification.measuring.noise import NoisyActivations
from bnlstm_deploy.verification.measuring.trial import TorchModel, Trial

STREAMS = 16
LEARNING_RATE = 0.05
STEPS_BETWEEN_RUNS = 5
TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class WorstInput(OfBackend):
    """The stream on which the search found the largest error of a graph."""

    value: str
    """The output with that error."""
    error: float
    own_error: float
    tried: int
    """Minibatches on which the graph was run."""
    name: str
    """The input."""
    stream: tuple[tuple[float, ...], ...]
    """(T, D), or (T, 1) for inputs without features."""


@dataclass
class Search:
    """Minibatches found so far.

    Attributes:
        worst: On which the graph's error was the largest.
        amplified: On which the training model amplified rounding most.
        tried: How many the graph was run on.
    """

    worst: Mapping[str, Array]
    amplified: Mapping[str, Array]
    tried: int = 0


def search(
    truth: TorchModel,
    resample: Callable[[], Mapping[str, Array]],
    error: Callable[[Mapping[str, Array]], float],
    seconds: float,
    seed: int,
) -> Search:
    """Search for inputs that make a graph err.

    The error itself has no useful gradient: it is rounding. What amplifies it has one: the distance
    between the float64 training model and the same with inexact activation functions. Adam ascends
    its logarithm over floating point inputs, within the range of the sample, and the graph is run
    on what it finds; inputs without a gradient, such as tokens, are drawn at random instead.

    Args:
        truth: The training model in float64.
        resample: Draws a minibatch.
        error: The graph's largest error on a minibatch, as a multiple of what is allowed.
        seconds: For how long to search.
        seed: Of the inexact activation functions.
    """
    end = time.monotonic() + seconds
    feeds = dict(resample())
    found = Search(feeds, feeds)
    largest, gain = error(feeds), -math.inf
    found.tried = 1
    inputs = {n: torch.from_numpy(a).double() for n, a in feeds.items() if a.dtype.kind == "f"}
    optimizer = None
    if inputs:
        bounds = {name: (float(x.min()), float(x.max())) for name, x in inputs.items()}
        for tensor in inputs.values():
            tensor.requires_grad_()
        optimizer = torch.optim.Adam(list(inputs.values()), lr=LEARNING_RATE)
    step = 0
    while time.monotonic() < end:
        step += 1
        if optimizer is None:
            candidate = dict(resample())
        else:
            optimizer.zero_grad()
            amplification = _amplification(truth, feeds, inputs, seed)
            (-amplification).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                for name, tensor in inputs.items():
                    tensor.nan_to_num_().clamp_(*bounds[name])
            if step % STEPS_BETWEEN_RUNS:
                continue
            candidate = feeds | {
                name: tensor.detach().numpy().astype(feeds[name].dtype)
                for name, tensor in inputs.items()
            }
            if amplification.item() > gain:
                gain, found.amplified = amplification.item(), candidate
        found.tried += 1
        now = error(candidate)
        if not now <= largest:
            largest, found.worst = now, candidate
    return found


def _amplification(
    truth: TorchModel, feeds: Mapping[str, Array], inputs: Mapping[str, Tensor], seed: int
) -> Tensor:
    """Return the logarithm of how far inexact activation functions take the outputs, relatively."""
    tensors = {name: torch.from_numpy(np.asarray(a)) for name, a in feeds.items()} | dict(inputs)
    clean = truth.outputs_of(tensors)
    with NoisyActivations(seed, systematic=True):
        noisy = truth.outputs_of(tensors)
    squares = [
        (noisy[name] - value).square().sum() / value.detach().square().sum().clamp_min(TINY)
        for name, value in clean.items()
        if value.is_floating_point()
    ]
    return torch.stack(squares).sum().clamp_min(torch.finfo(torch.float64).tiny).log()


def check_worst_case(checker: Checker, draw: Draw, seconds: float) -> WorstInput | None:
    """Search, and measure what was found: where a graph erred most, and what amplifies most.

    What counts in the search is the larger error of two graphs: of the first, a function body, and
    of the native kernel that users run, that for the best instruction set. What it finds is
    measured on all. The yardstick is taken several times, with inputs off by an ULP, since the
    search picks the graph's bad luck and not the training model's.
    """
    metadata = checker.graph.metadata
    steps = metadata.length or min(metadata.steps + 1, LONGEST)
    case = Case(steps, min(STREAMS, draw.most_streams(steps)))
    searched = _searched(list(checker.graphs))

    def error(feeds: Mapping[str, Array]) -> float:
        truth, trial = checker.truth.run(feeds), Trial(checker.graph, case, [feeds])
        # Relative to each output: a state is not lost beside a larger output, nor the other way.
        magnitudes = {name: largest(np.abs(value)) for name, value in truth.items()}
        open_ones = [backend for backend in searched if backend in checker.graphs]
        actuals = [checker.run(backend, trial, "worst case") for backend in open_ones]
        return largest(
            distance(actual[name], value) / max(magnitudes[name], TINY)
            for actual in actuals
            if actual is not None
            for name, value in truth.items()
        )

    found = search(
        checker.truth, lambda: draw.inputs(case.batch, steps), error, seconds, checker.seed
    )
    for words, feeds in (("worst", found.worst), ("most amplified", found.amplified)):
        trial = Trial(checker.graph, case, [feeds])
        label = f"{case}, {words} inputs"
        checker.measure("worst case", trial, label=label, inputs=words, jitters=JITTERS)
    return _describe(checker, Trial(checker.graph, case, [found.worst]), found)


def _searched(backends: Sequence[Backend]) -> list[Backend]:
    """Return the first and, if it is not that, the best native one: the best come last."""
    native = [backend for backend in backends if backend.instruction_set is not None]
    return list(dict.fromkeys((*backends[:1], *native[-1:])))


def _describe(checker: Checker, trial: Trial, found: Search) -> WorstInput | None:
    """Describe the stream with the largest error, of the first floating point input."""
    measured = [c for c in checker.comparisons if c.inputs == "worst"]
    worst = max(measured, key=lambda c: np.nan_to_num(c.error, nan=np.inf), default=None)
    axes = checker.graph.signature.batch_axes
    names = [v.name for v in checker.graph.inputs if found.worst[v.name].ndim > 1]
    if worst is None or not names or names[0] not in axes or worst.backend not in checker.graphs:
        return None
    actual = checker.run(worst.backend, trial, "worst case")
    if actual is None:
        return None
    array = np.moveaxis(found.worst[names[0]], axes[names[0]], 0)
    truth = checker.truth.run(found.worst)
    errors = np.abs(actual[worst.value].astype(float) - truth[worst.value].astype(float))
    stream = 0
    if worst.value in axes:
        rows = np.moveaxis(errors, axes[worst.value], 0).reshape(len(array), -1)
        stream = int(rows.max(axis=1).argmax())
    return WorstInput(
        value=worst.value,
        error=worst.error,
        own_error=worst.own_error,
        tried=found.tried,
        name=names[0],
        stream=tuple(tuple(map(float, step.ravel())) for step in array[stream]),
        **worst.backend._asdict(),
    )
