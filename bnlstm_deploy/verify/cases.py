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
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel

BATCHES = (1, 7)
LARGE_BATCH = 64

Lengths = Literal["random", "equal"]

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
    """Valid timesteps: random, 0 and T among them; all the same, below T; or T, if None."""
    steps: bool = False
    """Whether start steps are random, 0..S + 1, instead of 0."""
    chunks: tuple[int, ...] = ()
    """Timesteps of the chunks that the graph runs in, carrying its state; empty for one run."""

    def __str__(self) -> str:
        parts = [f"T={self.time}", f"N={self.batch}"]
        parts += ["random state"] if self.state else []
        parts += [f"{self.lengths} lengths"] if self.lengths else []
        parts += ["random steps"] if self.steps else []
        parts += [f"chunks {'+'.join(map(str, self.chunks))}"] if self.chunks else []
        return ", ".join(parts)


def make_cases(
    steps: int,
    *,
    streams: bool,
    generator: np.random.Generator,
    length: int | None = None,
    most_streams: Callable[[int], int] = lambda time: LARGE_BATCH,
) -> list[Case]:
    """Return the cases around S = `steps` timesteps with statistics of their own.

    Lengths 1, 2, S - 1, S, S + 1, 2S and 4S, batches 1, 7 and, at S, 64; zero and random initial
    states; for each length random lengths and start steps within a batch; equal lengths; and, for
    models that stream, random chunks.

    Args:
        steps: S.
        streams: Whether the graph can continue a stream.
        generator: For the chunks.
        length: The one T of a graph that is for one; its chunks are two and three times that.
        most_streams: How many streams of T timesteps fit into memory.
    """
    times = sorted({1, 2, steps - 1, steps, steps + 1, 2 * steps, 4 * steps} - {0})
    if length is not None:
        times = [length]

    def batch(time: int, streams: int = BATCHES[-1]) -> int:
        return max(1, min(streams, most_streams(time)))

    cases = [
        Case(time, n, state)
        for time in times
        for n in sorted({batch(time, size) for size in BATCHES})
        for state in (False, True)
    ]
    cases += [
        Case(time, batch(time), state=True, lengths="random", steps=streams) for time in times
    ]
    middle = length or steps + 1
    cases.append(Case(middle, batch(middle), lengths="equal"))
    cases.append(Case(length or steps, batch(length or steps, LARGE_BATCH), state=True))
    if streams and length is not None:
        cases += [Case(n * length, batch(n * length), chunks=(length,) * n) for n in (2, 3)]
    elif streams:
        cases += [
            Case(time, batch(time), chunks=_random_chunks(time, generator))
            for time in times
            if time > 1
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
        if case.steps and entry.streams:
            given[name("start_step")] = generator.integers(0, entry.steps + 2, case.batch)
    return given


def _lengths(case: Case, generator: np.random.Generator) -> NDArray[np.int64]:
    if case.lengths == "equal":
        return np.full(case.batch, max(1, case.time - 1))
    lengths = generator.integers(0, case.time + 1, case.batch)
    lengths[:2] = (case.time, 0)[: case.batch]  # whatever is drawn, both ends are there
    return lengths


def default_sample(model: nn.Module) -> Sample:
    """Return the sampler of a BNLSTM or a BNLSTMModel: standard normal float32.

    Raises:
        VerificationError: Another model, whose inputs only its author knows.
    """
    rnn = model.rnn if isinstance(model, BNLSTMModel) else model
    if not isinstance(rnn, BNLSTM):
        raise VerificationError(
            f"a {type(model).__name__} needs sample=..., a function of a numpy random generator, a "
            "batch size and a number of timesteps that returns the model's inputs"
        )

    def sample(generator: np.random.Generator, batch: int, time: int) -> list[Tensor]:
        leading = (batch, time) if rnn.batch_first else (time, batch)
        array = generator.standard_normal((*leading, rnn.input_size))
        return [torch.from_numpy(_float32(array))]

    return sample


def _float32(array: NDArray[np.float64]) -> NDArray[np.float32]:
    return array.astype(np.float32)


def _random_chunks(time: int, generator: np.random.Generator) -> tuple[int, ...]:
    """Cut `time` into two to four parts."""
    cuts = generator.choice(np.arange(1, time), size=min(3, time - 1), replace=False)
    edges = [0, *sorted(int(cut) for cut in cuts), time]
    return tuple(b - a for a, b in itertools.pairwise(edges))
