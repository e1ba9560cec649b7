"""The conditions under which a graph is checked."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnlstm_deploy.errors import VerificationError
from bnlstm_deploy.metadata import RecurrentLayers
from bnlstm_deploy.signature import BATCH, TIME
from bnlstm_deploy.verification.measuring.process import Graph

BATCHES = (1, 7)
LARGE_BATCH = 64

MANY = 130
LONG = 6  # times S
RANDOM_TIMES = 4
FAR = (2**31 - 1, 2**31, 2**40, 2**62)

Lengths = Literal["random", "equal", "all"]

Steps = Literal["random", "far"]

Sample = Callable[[np.random.Generator, int, int], Sequence[Tensor]]
"""Makes a model's inputs from a random generator, a batch size and a number of timesteps."""


@dataclass(frozen=True)
class Case:
    """One condition."""

    time: int
    """T."""
    batch: int
    """N."""
    state: bool = False
    """Whether the initial state is random instead of zero."""
    lengths: Lengths | None = None
    """Valid timesteps: random, 0 and T among them; all the same, below T; as many different ones
    as there are streams; or T, if None."""
    steps: Steps | None = None
    """Start steps: random, 0..S + 1; far past S, where 32 bits end; or 0, if None."""
    chunks: tuple[int, ...] = ()
    """Timesteps of the chunks that the graph runs in, carrying its state; empty for one run."""

    def __str__(self) -> str:
        parts = [f"T={self.time}", f"N={self.batch}"]
        parts += ["random state"] if self.state else []
        parts += [f"{self.lengths} lengths"] if self.lengths else []
        parts += [f"{self.steps} steps"] if self.steps else []
        parts += [f"chunks {'+'.join(map(str, self.chunks))}"] if self.chunks else []
        return ", ".join(parts)


def make_cases(
    steps: int,
    *,
    streams: bool,
    generator: np.random.Generator,
    most_streams: Callable[[int], int],
    length: int | None = None,
) -> list[Case]:
    """Return the cases around S = `steps` timesteps with statistics of their own.

    Lengths 1, 2, S - 1, S, S + 1, 2S and 4S, batches 1, 7 and, at S, 64; zero and random initial
    states, in turns; for each length random lengths and start steps within a batch; equal lengths,
    and all at once; lengths up to 4S at random, and one well past it; more streams, of few
    timesteps; start steps past what 32 bits hold; and, for models that stream, random chunks.

    Args:
        steps: S.
        streams: Whether the graph can continue a stream.
        generator: For the chunks.
        most_streams: How many streams of T timesteps fit into memory.
        length: The one T of a graph that is for one; its chunks are two and three times that.
    """
    times = sorted({1, 2, steps - 1, steps, steps + 1, 2 * steps, 4 * steps} - {0})
    if length is not None:
        times = [length]

    def batch(time: int, streams: int = BATCHES[-1]) -> int:
        return max(1, min(streams, most_streams(time)))

    cases = [
        Case(time, n, state)
        for number, time in enumerate(times)
        for n in sorted({batch(time, size) for size in BATCHES})
        for state in (False, True)
        # One stream from a given state and several from none, then the other way around.
        if len(times) == 1 or state == ((n == 1) == (number % 2 == 0))
    ]
    cases += [
        Case(time, batch(time), state=True, lengths="random", steps="random" if streams else None)
        for time in times
    ]
    middle = length or steps + 1
    cases.append(Case(middle, batch(middle), lengths="equal"))
    cases.append(Case(middle, batch(middle, middle + 1), state=True, lengths="all"))
    cases.append(Case(length or steps, batch(length or steps, LARGE_BATCH), state=True))
    few = length or 3
    cases.append(Case(few, batch(few, MANY), state=True, lengths="random"))
    if length is None:
        others = generator.integers(1, 4 * steps, RANDOM_TIMES, endpoint=True)
        cases += [Case(int(time), batch(int(time), 2), state=True) for time in others]
        cases.append(Case(LONG * steps + 1, 1, state=True))
    if streams:
        cases.append(Case(middle, batch(middle), state=True, lengths="random", steps="far"))
    if streams and length is not None:
        cases += [Case(n * length, batch(n * length), chunks=(length,) * n) for n in (2, 3)]
    elif streams:
        cases += [
            Case(time, batch(time), chunks=_random_chunks(time, generator))
            for time in sorted({2, steps + 1, 4 * steps} - {1})
        ]
    return cases


def make_given(
    case: Case, layers: Sequence[RecurrentLayers], generator: np.random.Generator
) -> dict[str, NDArray[np.generic]]:
    """Return the initial states, lengths and start steps of a case, by the graph's names.

    States are float32, as a graph takes them: h uniform in -1..1, c standard normal.
    """
    given: dict[str, NDArray[np.generic]] = {}
    for entry in layers:
        name = entry.value_name
        if case.state:
            shape = (entry.num_layers * entry.num_directions, case.batch, entry.hidden_size)
            given[name("initial_h")] = _float32(generator.uniform(-1, 1, shape))
            given[name("initial_c")] = _float32(generator.standard_normal(shape))
        if case.lengths is not None:
            given[name("lengths")] = _lengths(case, generator)
        if case.steps == "random" and entry.streams:
            given[name("start_step")] = generator.integers(0, entry.steps + 2, case.batch)
        if case.steps == "far" and entry.streams:
            given[name("start_step")] = generator.choice(FAR, case.batch)
    return given


def _lengths(case: Case, generator: np.random.Generator) -> NDArray[np.int64]:
    if case.lengths == "equal":
        return np.full(case.batch, max(1, case.time - 1))
    if case.lengths == "all":
        every = generator.permutation(case.time + 1)
        return np.resize(every, case.batch)
    lengths = generator.integers(0, case.time + 1, case.batch)
    lengths[:2] = (case.time, 0)[: case.batch]  # whatever is drawn, both ends are there
    return lengths


def default_sample(model: nn.Module, graph: Graph) -> Sample:
    """Return a sampler of standard normal float32 inputs, of the shapes that the file declares.

    Raises:
        VerificationError: Integers are among the inputs, which only the model's author knows, or
            the file does not tell which axes of an input are the batch and time.
    """
    length = graph.metadata.length
    shapes = [list(value.shape) for value in graph.inputs]
    for value, shape in zip(graph.inputs, shapes, strict=True):
        axis = graph.metadata.time_axes.get(value.name)
        if length is not None and axis is not None:
            shape[axis] = TIME
        known = all(isinstance(size, int) or size in (BATCH, TIME) for size in shape)
        if value.dtype is None or value.dtype.kind != "f" or not known:
            raise VerificationError(
                f"the input {value.name!r} of a {type(model).__name__} is {value.dtype} of shape "
                f"{value.shape}: pass sample=..., a function of a numpy random generator, a batch "
                "size and a number of timesteps that returns the model's inputs"
            )

    def sample(generator: np.random.Generator, batch: int, time: int) -> list[Tensor]:
        dynamic = {BATCH: batch, TIME: time}
        sizes = [[a if isinstance(a, int) else dynamic[str(a)] for a in shape] for shape in shapes]
        return [torch.from_numpy(_float32(generator.standard_normal(size))) for size in sizes]

    return sample


def _float32(array: NDArray[np.float64]) -> NDArray[np.float32]:
    return array.astype(np.float32)


def _random_chunks(time: int, generator: np.random.Generator) -> tuple[int, ...]:
    """Cut `time` into two to four parts."""
    cuts = generator.choice(np.arange(1, time), size=min(3, time - 1), replace=False)
    edges = [0, *sorted(int(cut) for cut in cuts), time]
    return tuple(b - a for a, b in itertools.pairwise(edges))
