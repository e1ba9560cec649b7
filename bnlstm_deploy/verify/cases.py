"""The conditions under which a graph is checked."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnlstm_deploy.errors import VerificationError
from bnlstm_deploy.metadata import RecurrentLayers
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel

BATCHES = (1, 7)

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
    ragged: bool = False
    """Whether lengths (0..T) and start steps (0..S + 1) are random instead of T and 0."""
    chunks: tuple[int, ...] = ()
    """Timesteps of the chunks that the graph runs in, carrying its state; empty for one run."""

    def __str__(self) -> str:
        parts = [f"T={self.time}", f"N={self.batch}"]
        parts += ["random state"] if self.state else []
        parts += ["random lengths and steps"] if self.ragged else []
        parts += [f"chunks {'+'.join(map(str, self.chunks))}"] if self.chunks else []
        return ", ".join(parts)


def make_cases(steps: int, *, streams: bool, generator: np.random.Generator) -> list[Case]:
    """Return the cases around S = `steps` statistics rows.

    Lengths 1, S - 1, S, S + 1 and 3S, batches 1 and 7, zero and random initial states; for each
    length random lengths and steps within a batch; and, for models that stream, random chunks.
    """
    times = sorted({time for time in (1, steps - 1, steps, steps + 1, 3 * steps) if time > 0})
    cases = [
        Case(time, batch, state) for time in times for batch in BATCHES for state in (False, True)
    ]
    cases += [Case(time, BATCHES[-1], state=True, ragged=True) for time in times]
    if streams:
        cases += [
            Case(time, BATCHES[-1], chunks=_random_chunks(time, generator))
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
        if case.ragged:
            given[name("lengths")] = generator.integers(0, case.time + 1, case.batch)
            if entry.streams:
                given[name("start_step")] = generator.integers(0, entry.steps + 2, case.batch)
    return given


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
