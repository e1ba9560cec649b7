"""Running what is compared: torch models by the names of a graph, and anything in chunks."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from bnlstm_deploy.errors import VerificationError
from bnlstm_deploy.exporting.lifted import Lifted
from bnlstm_deploy.signature import Array
from bnlstm_deploy.verification.judging.comparison import distance, largest
from bnlstm_deploy.verification.measuring.cases import Case
from bnlstm_deploy.verification.measuring.process import Graph

Run = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Arrays by input name to arrays by output name."""


class TorchModel:
    """A torch model that is run like a `Session`: arrays by the graph's names.

    Args:
        model: The model, changed in place: put into evaluation, on the CPU and into `dtype`.
        graph: The graph, for its names and layers.
        dtype: In which to compute.
    """

    def __init__(self, model: nn.Module, graph: Graph, dtype: torch.dtype) -> None:
        self.lifted = Lifted(model.eval().to("cpu", dtype), graph.metadata.layers)
        self.dtype = dtype
        self.inputs = [value.name for value in graph.inputs]
        self.outputs = [value.name for value in graph.outputs]
        self.state_outputs = [value.name for value in graph.state_outputs]
        self.start_steps = graph.signature.start_steps

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model: arrays by input name to arrays by output name."""
        with torch.inference_mode():
            results = self.outputs_of({n: torch.from_numpy(array) for n, array in feeds.items()})
        return {
            name: (t.float() if t.dtype == torch.bfloat16 else t).numpy()  # numpy has no bfloat16
            for name, t in results.items()
        }

    def outputs_of(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the model on tensors, with gradients."""
        given = {n: t.to(self.dtype) if t.is_floating_point() else t for n, t in tensors.items()}
        for name in self.start_steps:  # without one, Lifted leaves no next step behind
            given.setdefault(name, torch.zeros((), dtype=torch.int64))
        outputs, left = self.lifted(tuple(given[name] for name in self.inputs), given)
        if len(outputs) != len(self.outputs):
            raise VerificationError(
                f"the model gives {len(outputs)} outputs, the file {len(self.outputs)}: "
                f"{self.outputs}; check it against the model that it was exported from"
            )
        results = dict(zip(self.outputs, outputs, strict=True))
        # A file may have outputs that its inputs do not call for: that is found elsewhere.
        return results | {name: left[name] for name in self.state_outputs if name in left}


def alike(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    """Whether runs in float64 gave the same, but for rounding, relative to each output."""
    return all(
        distance(other[name], value) <= 1e-9 * largest(np.abs(value)) for name, value in one.items()
    )


@dataclass(frozen=True, eq=False)
class Trial:
    """One case with its inputs, to be run by any model."""

    graph: Graph
    """For its names."""
    case: Case
    feeds: Sequence[Mapping[str, Array]]
    """The inputs of the whole sequence; for the chunks of a graph that is for one number of
    timesteps, those of each chunk."""
    lengths: Collection[str] = ()
    """Names of the model's own inputs that are valid timesteps: see `find_lengths`."""
    checked: bool = True
    """Whether a session checks the inputs; if not, they may be such as the graph takes and a
    session refuses."""

    def with_feeds(self, feeds: Sequence[Mapping[str, Array]]) -> "Trial":
        """Return the same case with other inputs."""
        return replace(self, feeds=feeds)

    def repeated(self, times: int) -> "Trial":
        """Return the same case with each of its streams several times."""
        axes = self.graph.signature.batch_axes
        return self.with_feeds(
            [
                {n: np.concatenate([a] * times, axes[n]) if n in axes else a for n, a in f.items()}
                for f in self.feeds
            ]
        )

    def run(self, run: Run) -> dict[str, Array]:
        """Run the whole sequence at once, unless it is given in chunks."""
        return run(self.feeds[0]) if len(self.feeds) == 1 else self.run_chunks(run)

    def run_chunks(self, run: Run) -> dict[str, Array]:
        """Run in the case's chunks, carry the states, and join the outputs.

        Outputs with a time axis are joined over time, or stacked if the chunks were given as such.
        Others are those of the last chunk.
        """
        pieces: list[dict[str, Array]] = []
        state: dict[str, Array] = {}
        for feeds in self.chunks():
            results = run({**feeds, **state})
            pieces.append(results)
            state = {into: results[out] for into, out in self.graph.signature.carried.items()}
        return self.joined(pieces)

    def chunks(self) -> Sequence[Mapping[str, Array]]:
        """Return the inputs of each chunk, without states."""
        return self.feeds if len(self.feeds) > 1 else list(self._cut())

    def joined(self, pieces: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Join what each chunk gave."""
        joined = dict(pieces[-1])
        axes = self.graph.signature.time_axes
        for name in (value.name for value in self.graph.outputs):
            parts = [piece[name] for piece in pieces]
            if len(self.feeds) > 1:
                joined[name] = np.stack(parts)
            elif name in axes:
                joined[name] = np.concatenate(parts, axes[name])
        return joined

    def _cut(self) -> Iterator[dict[str, Array]]:
        axes = self.graph.signature.time_axes
        start = 0
        for length in self.case.chunks:
            part = {value.name: self.feeds[0][value.name] for value in self.graph.inputs}
            for name in part.keys() & axes:
                part[name] = part[name].take(np.arange(start, start + length), axes[name])
            for name in self.lengths:
                part[name] = np.clip(part[name] - start, 0, length)
            yield part
            start += length


class Together:
    """Trials of one T that models are run on at once, their streams side by side: it is faster.

    Args:
        trials: The trials.
        defaults: What one stream has by the name of an input that is left out; None if the streams
            are not to be put together, and each trial is run on its own.
    """

    def __init__(
        self, trials: Sequence[Trial], defaults: Callable[[int], Mapping[str, Array]] | None
    ) -> None:
        self.trials = trials
        self._joined = None
        if defaults is not None and len(trials) > 1:
            self._joined = self._join(defaults(trials[0].case.time))

    def map(
        self, function: Callable[[Trial], Sequence[Mapping[str, Array]]]
    ) -> list[tuple[dict[str, Array], ...]]:
        """Return what a function gives of each trial: arrays by output name, any number of times.

        Args:
            function: Of a trial; with all streams, if they are put together.
        """
        if self._joined is None:
            return [tuple(map(dict, function(trial))) for trial in self.trials]
        parts = [self._split(results) for results in function(self._joined)]
        return list(zip(*parts, strict=True))

    def _join(self, defaults: Mapping[str, Array]) -> Trial:
        first = self.trials[0]
        axes = first.graph.signature.batch_axes
        given = {name for trial in self.trials for name in trial.feeds[0]}
        feeds = {
            name: np.concatenate(
                [
                    trial.feeds[0][name]
                    if name in trial.feeds[0]
                    else defaults[name].repeat(trial.case.batch, axes[name])
                    for trial in self.trials
                ],
                axes[name],
            )
            for name in given
        }
        case = Case(first.case.time, sum(trial.case.batch for trial in self.trials))
        return Trial(first.graph, case, [feeds], first.lengths)

    def _split(self, results: Mapping[str, Array]) -> list[dict[str, Array]]:
        axes = self.trials[0].graph.signature.batch_axes
        ends = np.cumsum([trial.case.batch for trial in self.trials])[:-1]
        cut = {name: np.split(array, ends, axes[name]) for name, array in results.items()}
        return [{n: parts[number] for n, parts in cut.items()} for number in range(len(ends) + 1)]
