"""What a graph is compared with: the training model and its fold, on cases that share runs."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bnlstm_deploy.dtypes import EPS, REDUCED
from bnlstm_deploy.exporting.export import approximation_of, fold_layers
from bnlstm_deploy.exporting.lifted import recurrent_modules
from bnlstm_deploy.folding.approximate import EXACT, Approximation
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.signature import Array
from bnlstm_deploy.verification.judging.comparison import distance
from bnlstm_deploy.verification.measuring.noise import RoundedProducts, noisy_runs, sensitivity
from bnlstm_deploy.verification.measuring.process import Graph
from bnlstm_deploy.verification.measuring.trial import Run, Together, TorchModel, Trial, alike


@dataclass(frozen=True)
class Reference:
    """What the training model and its fold give on a trial, by output name."""

    expected: Mapping[str, Array]
    """The training model in float64."""
    rounded: Mapping[str, Array]
    """The training model in the graph's precision."""
    folded: Mapping[str, Array]
    """The fold in the graph's precision."""
    exact: Mapping[str, Array]
    """The fold in float64."""
    moved_by: Mapping[str, NDArray[np.float64]]
    """How far inexact activation functions move the training model, or what it was changed to."""
    target: Mapping[str, Array]
    """What the graph ought to give: `expected`, or what the fold gives as it was changed."""
    jittered: Mapping[str, float]
    """The largest own errors on inputs that are off by an ULP; of a model that was changed on
    purpose, no less than that of what it was changed to, and than what rounding h to int8 does."""

    def others(self, value: str) -> tuple[Array, NDArray[np.float64], Array]:
        """Return what is compared beside the truth."""
        return self.rounded[value], self.moved_by[value], self.folded[value]


class Changed(NamedTuple):
    """The fold as a file changes it on purpose, but for h, which is not rounded.

    Other weights reach other values, and some of these are more sensitive than any of the training
    model's: its rounding is no yardstick of the file's.
    """

    exact: TorchModel
    """In float64."""
    own: TorchModel
    """In the graph's precision."""


class References:
    """Runs the training model and its fold.

    Most of a check's time goes into that, timestep by timestep in Python, so the streams of several
    cases are run at once. Where they are not independent, as in a model of one's own that looks
    across the batch, each case is run by itself.

    Args:
        model: The training model. It is copied.
        graph: The graph, for its names and metadata.
        seed: Of the inexact activation functions, and of what moves inputs by an ULP.
        approximation: What the graph changes on purpose; by default what its metadata say.

    Attributes:
        metadata: The graph's.
        truth: The training model in float64.
        target: What the graph ought to be, in float64: the truth, or the fold as it was changed.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        seed: int,
        approximation: Approximation | None = None,
    ) -> None:
        self._signature = graph.signature
        self._seed = seed
        self.metadata = metadata = graph.metadata
        # To which the training model's products are rounded for the yardstick; else it is float32.
        self._reduced = getattr(torch, metadata.dtype) if metadata.dtype in REDUCED else None
        self.truth = TorchModel(copy.deepcopy(model), graph, torch.float64)
        self._own = TorchModel(copy.deepcopy(model), graph, torch.float32)
        if approximation is None:
            approximation = approximation_of(metadata)

        def folded(change: Approximation, dtype: torch.dtype | None = None) -> TorchModel:
            """Return a fold in the graph's precision, or another one."""
            dtype = dtype or self._reduced or torch.float32
            return TorchModel(fold_layers(model, dtype, change), graph, dtype)

        self._folded, self._folded_own = folded(EXACT, torch.float64), folded(EXACT)
        self.target, self._changed = self.truth, None
        if not approximation.exact:
            float_h = approximation._replace(activations=None)
            self._changed = Changed(folded(float_h, torch.float64), folded(float_h))
            self.target = self._changed.exact
            if approximation.activations is not None:
                self.target = folded(approximation, torch.float64)
        self._known: dict[Trial, Reference] = {}
        self._independent: bool | None = None  # whether streams are; None until that is tried

    def of(self, trial: Trial, jitters: int = 0) -> Reference:
        """Return what they give on a trial; if it was not prepared, run them.

        Args:
            trial: The trial.
            jitters: See `prepare`.
        """
        if trial not in self._known:
            self.prepare([(trial, jitters)], trial.case.batch)
        return self._known[trial]

    def prepare(self, trials: Sequence[tuple[Trial, int]], most_streams: int) -> None:
        """Run the training model and its fold on trials of one T, to be measured next.

        Args:
            trials: The trials, and how often the yardstick of each is taken again with inputs off
                by an ULP: where few values decide, the error of one run is luck.
            most_streams: How many streams may be run at once.
        """
        self._known = {}
        group: list[tuple[Trial, int]] = []
        for trial, jitters in trials:
            streams = sum(t.case.batch * (1 + n) for t, n in (*group, (trial, jitters)))
            if group and (streams > most_streams or not self._joins(trial)):
                self._known |= self.make(group)
                group = []
            group.append((trial, jitters))
        if group:
            self._known |= self.make(group)

    def make(self, trials: Sequence[tuple[Trial, int]]) -> dict[Trial, Reference]:
        """Run the training model and its fold on trials, their streams together if they may be."""
        generator = np.random.default_rng(self._seed)
        copies = [
            trial.with_feeds([_off_by_an_ulp(feeds, generator) for feeds in trial.feeds])
            for trial, jitters in trials
            for _ in range(jitters)
        ]
        every = [*(trial for trial, _ in trials), *copies]
        joins = self._joins(every[0])
        runs = Together(every, self._defaults if joins else None).map(self._run_all)
        if len(every) > 1 and joins and self._independent is None:
            alone, beside = every[0].run(self.truth.run), runs[0][0]
            self._independent = alike(alone, beside)
            if not self._independent:
                return self.make(trials)
        further = Together(every[: len(trials)], self._defaults if joins else None)
        further_runs = further.map(self._run_further)
        moved = iter(runs[len(trials) :])
        references = {}
        for (trial, jitters), (expected, rounded, folded, *changed), (exact, aim, *noisy) in zip(
            trials, runs, further_runs, strict=False
        ):
            own = dict.fromkeys(expected, 0.0)
            for truth, *inexact in itertools.islice(moved, jitters):
                own = _larger(own, truth, *inexact[:2])
                own = _larger(own, *inexact[2:]) if changed else own
            draws = len(noisy) // (2 if changed else 1)
            moved_by = sensitivity(noisy[:draws], expected)
            if changed:
                own = _larger(own, *changed, aim)
                for name, by in sensitivity(noisy[draws:], changed[0]).items():
                    moved_by[name] = np.maximum(moved_by[name], by)
            target = aim if changed else expected
            references[trial] = Reference(
                expected, rounded, folded, exact, moved_by, target, jittered=own
            )
        return references

    def _run_all(self, trial: Trial) -> Sequence[Mapping[str, Array]]:
        runs: list[Run] = [self.truth.run, self._run_own, self._folded_own.run]
        if self._changed is not None:
            runs += [model.run for model in self._changed]
        return [trial.run(run) for run in runs]

    def _run_further(self, trial: Trial) -> Sequence[Mapping[str, Array]]:
        exact, noisy = trial.run(self._folded.run), noisy_runs(self.truth.run, trial, self._seed)
        if self._changed is None:
            return [exact, exact, *noisy]
        noisy += noisy_runs(self._changed.exact.run, trial, self._seed)
        return [exact, trial.run(self.target.run), *noisy]

    def _joins(self, trial: Trial) -> bool:
        """Whether the streams of a trial may be run beside those of others."""
        signature = self._signature
        own = (*signature.inputs, *signature.outputs)
        return (
            self._independent is not False
            and len(trial.feeds) == 1
            and not trial.case.chunks
            and all(value.name in signature.batch_axes for value in own)
        )

    def _defaults(self, time: int) -> dict[str, Array]:
        """Return what one stream of T timesteps has by the name of an input that is left out."""
        defaults: dict[str, Array] = {}
        modules = recurrent_modules(self.truth.lifted.model).values()
        for entry, module in zip(self.truth.lifted.layers, modules, strict=True):
            assert isinstance(module, BNLSTM)
            h, c = module.initial_state(1)
            defaults |= {
                entry.value_name("initial_h"): h.detach().numpy(),
                entry.value_name("initial_c"): c.detach().numpy(),
                entry.value_name("lengths"): np.array([time]),
                entry.value_name("start_step"): np.array([0]),
            }
        return defaults

    def _run_own(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the training model in the graph's precision."""
        if self._reduced is None:
            return self._own.run(feeds)
        with RoundedProducts(self._reduced):
            return self._own.run(feeds)


def _larger(
    errors: Mapping[str, float], truth: Mapping[str, Array], *runs: Mapping[str, Array]
) -> dict[str, float]:
    """Return errors, or those of further runs where they are larger."""
    return {
        name: max(error, *(distance(run[name], truth[name]) for run in runs))
        for name, error in errors.items()
    }


def _off_by_an_ulp(feeds: Mapping[str, Array], generator: np.random.Generator) -> dict[str, Array]:
    """Return inputs whose floating point numbers are off by an ULP of float32 at random."""
    moved = dict(feeds)
    for name, array in feeds.items():
        if array.dtype.kind == "f":
            ulps = generator.integers(-1, 2, array.shape) * EPS["float32"]
            moved[name] = (array.astype(np.float64) * (1 + ulps)).astype(array.dtype)
    return moved
