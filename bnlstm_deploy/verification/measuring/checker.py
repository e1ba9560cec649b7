"""The measuring part of a check: one model, its graph on several backends, any inputs."""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bnlstm_deploy.dtypes import EPS, REDUCED
from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.exporting.export import fold_layers
from bnlstm_deploy.exporting.lifted import recurrent_modules
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.signature import TIME, Array
from bnlstm_deploy.verification.judging.comparison import (
    Comparison,
    Curve,
    Runs,
    Stage,
    compare,
    curve,
    distance,
)
from bnlstm_deploy.verification.measuring.backend import Backend
from bnlstm_deploy.verification.measuring.cases import Case
from bnlstm_deploy.verification.measuring.noise import RoundedProducts, noisy_runs, sensitivity
from bnlstm_deploy.verification.measuring.process import Graph
from bnlstm_deploy.verification.measuring.trial import Run, Together, TorchModel, Trial

Select = Callable[[str, Array], Array]
"""Takes what is to be compared out of an output, by its name."""

SUSPICIOUS = 8.0
"""Times the rounding of its own case from which on a trial's error is worth a look."""

CLEAR = 1000.0
"""Times the rounding from which on one failure is as clear as another."""

VISIBLE = 30.0
"""What part of a failure is looked into: one of at least 1 / VISIBLE of its error."""

TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Suspect:
    """A trial to look into."""

    backend: Backend
    """On which it failed."""
    trial: Trial
    tolerance: Mapping[str, float]
    """Error of each output above which a part of the trial fails, too."""
    rank: tuple[float, ...]
    """The smaller, the clearer the failure, or the more it says."""


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
    """How far inexact activation functions move the training model."""
    target: Mapping[str, Array]
    """What the graph ought to give: `expected`, or what the fold with merged rows gives."""
    jittered: Mapping[str, float]
    """The largest own errors on inputs that are off by an ULP."""

    def others(self, value: str) -> tuple[Array, NDArray[np.float64], Array]:
        """Return what is compared beside the truth."""
        return self.rounded[value], self.moved_by[value], self.folded[value]


class Checker:
    """Runs cases and keeps their comparisons.

    Args:
        model: The training model.
        graphs: The exported graph, by backend.
        seed: Of the inexact activation functions, and of what moves inputs by an ULP.

    Attributes:
        truth: The training model in float64.
        target: What the graph ought to be, in float64: the truth, or the fold with merged rows.
        comparisons: Of everything measured.
        curves: Over the timesteps of precision cases, by backend, T and output.
        crashes: Why a graph ended its process, by backend.
        merge_error: How far merging rows moved an output at most.
        misdeclared: Outputs whose shape is not what the file declares, and how, by name.
        suspects: For each backend the trial whose error is furthest beyond the rounding of its own
            case; the places to look if the check fails.
    """

    def __init__(self, model: nn.Module, graphs: Mapping[Backend, Graph], seed: int) -> None:
        self.graphs = dict(graphs)
        self.graph = next(iter(self.graphs.values()))
        self.seed = seed
        metadata = self.graph.metadata
        layers = metadata.layers
        # To which the training model's products are rounded for the yardstick; else it is float32.
        self.reduced = getattr(torch, metadata.dtype) if metadata.dtype in REDUCED else None
        self.truth = TorchModel(copy.deepcopy(model), layers, self.graph, torch.float64)
        self.own = TorchModel(copy.deepcopy(model), layers, self.graph, torch.float32)
        self.folded, merged, self.folded_32 = (
            TorchModel(fold_layers(model, dtype, tolerance), layers, self.graph, dtype)
            for dtype, tolerance in (
                (torch.float64, 0.0),
                (torch.float64, metadata.merge_tolerance),
                (self.reduced or torch.float32, 0.0),
            )
        )
        self.target = merged if metadata.merge_tolerance > 0 else self.truth
        self.comparisons: list[Comparison] = []
        self.curves: dict[tuple[Backend, int, str], Curve] = {}
        self.crashes: dict[Backend, str] = {}
        self.merge_error = 0.0
        self.misdeclared: dict[str, str] = {}
        self.suspects: dict[Backend, Suspect] = {}
        self._known: dict[Trial, Reference] = {}
        self._independent: bool | None = None  # whether streams are; None until that is tried

    def measure(
        self,
        stage: Stage,
        trial: Trial,
        *,
        label: str | None = None,
        inputs: str = "normal",
        jitters: int = 0,
        run_with: Trial | None = None,
        select: Select | None = None,
    ) -> dict[Backend, dict[str, Array]]:
        """Run a trial on everything, and keep the comparisons.

        Args:
            stage: What is checked.
            trial: The case and its inputs.
            label: What to call it; the case by default.
            inputs: The kind of inputs; kinds do not share a yardstick.
            jitters: See `prepare`, which need not be called for one trial.
            run_with: What the graph is run on, if its outputs must be those of `trial` all the
                same.
            select: What is to be compared of each output; everything by default.

        Returns:
            What each graph gave, by backend.
        """
        case, name = trial.case, label or str(trial.case)
        if trial not in self._known:
            self.prepare([(trial, jitters)], case.batch)
        known = self._known[trial]
        if known.target is not known.expected:
            moved = [distance(known.target[v], truth) for v, truth in known.expected.items()]
            self.merge_error = max(self.merge_error, *moved)
        facts: dict[str, Any] = {"inputs": inputs}
        if stage == "precision" and not case.chunks and run_with is None:
            for value, truth in known.expected.items():
                runs = Runs(known.exact[value], *known.others(value), truth, truth)
                self.comparisons.append(compare("algebra", name, case.time, value, runs, **facts))
        actuals: dict[Backend, dict[str, Array]] = {}
        for backend in list(self.graphs):
            actual = self.run(backend, run_with or trial, name)
            if actual is None:
                continue
            actuals[backend] = actual
            tolerance: dict[str, float] = {}
            worst = 0.0
            for value, truth in known.expected.items():
                arrays = (actual[value], *known.others(value), truth, known.target[value])
                if select is not None:
                    arrays = tuple(select(value, array) for array in arrays)  # type: ignore[assignment]
                runs = Runs(*arrays)
                found = compare(stage, name, case.time, value, runs, **backend._asdict(), **facts)
                found = replace(
                    found, own_error=max(found.own_error, known.jittered.get(value, 0.0))
                )
                self.comparisons.append(found)
                tolerance[value] = SUSPICIOUS * (found.noise + EPS["float32"] * found.magnitude)
                worst = max(
                    worst, np.nan_to_num(found.error / max(tolerance[value], TINY), nan=np.inf)
                )
                if stage == "precision":
                    self._add_curve(backend, case.time, value, runs)
            if run_with is None and select is None and not case.chunks:
                self._suspect(backend, trial, tolerance, worst)
        return actuals

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
                self._known |= self.make_references(group)
                group = []
            group.append((trial, jitters))
        if group:
            self._known |= self.make_references(group)

    def make_references(self, trials: Sequence[tuple[Trial, int]]) -> dict[Trial, Reference]:
        """Run the training model and its fold on trials whose streams may be put together."""
        generator = np.random.default_rng(self.seed)
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
            self._independent = all(
                np.allclose(beside[name], value, rtol=1e-9, atol=1e-12)
                for name, value in alone.items()
            )
            if not self._independent:
                return self.make_references(trials)
        further = Together(every[: len(trials)], self._defaults if joins else None)
        further_runs = further.map(self._run_further)
        moved = iter(runs[len(trials) :])
        references = {}
        for (trial, jitters), (expected, rounded, folded), (exact, target, *noisy) in zip(
            trials, runs, further_runs, strict=False
        ):
            jittered = dict.fromkeys(expected, 0.0)
            for truth, *own in itertools.islice(moved, jitters):
                for name, value in truth.items():
                    errors = (distance(run[name], value) for run in own)
                    jittered[name] = max(jittered[name], *errors)
            references[trial] = Reference(
                expected=expected,
                rounded=rounded,
                folded=folded,
                exact=exact,
                moved_by=sensitivity(noisy, expected),
                target=expected if self.target is self.truth else target,
                jittered=jittered,
            )
        return references

    def _run_all(self, trial: Trial) -> Sequence[Mapping[str, Array]]:
        return [trial.run(run) for run in (self.truth.run, self._run_own, self.folded_32.run)]

    def _run_further(self, trial: Trial) -> Sequence[Mapping[str, Array]]:
        exact = trial.run(self.folded.run)
        target = exact if self.target is self.truth else trial.run(self.target.run)
        return [exact, target, *noisy_runs(self.truth.run, trial, self.seed)]

    def _joins(self, trial: Trial) -> bool:
        """Whether the streams of a trial may be run beside those of others."""
        signature = self.graph.signature
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
        if self.reduced is None:
            return self.own.run(feeds)
        with RoundedProducts(self.reduced):
            return self.own.run(feeds)

    def run(self, backend: Backend, trial: Trial, name: str) -> dict[str, Array] | None:
        """Run a trial on one graph; None if it crashes: that is noted, and it is not run again."""
        run = converting(self.graphs[backend], checked=trial.checked)
        try:
            results = trial.run_chunks(run) if trial.case.chunks else trial.run(run)
        except RuntimeSessionError as error:
            self.crashes[backend] = f"{name}: {error}"
            del self.graphs[backend]
            return None
        if not trial.case.chunks:
            self._compare_shapes(trial, results, name)
        return results

    def _compare_shapes(self, trial: Trial, results: Mapping[str, Array], name: str) -> None:
        """Compare shapes with the declared ones, whose named axes have the sizes of the inputs'."""
        sizes: dict[int | str | None, int] = {}
        for value in self.graph.inputs:
            sizes |= dict(zip(value.shape, trial.feeds[0][value.name].shape, strict=True))
        for value in (*self.graph.outputs, *self.graph.state_outputs):
            found = results[value.name].shape
            declared = [sizes.get(axis) if isinstance(axis, str) else axis for axis in value.shape]
            if len(declared) != len(found) or any(
                size not in (None, other) for size, other in zip(declared, found, strict=True)
            ):
                words = f"{value.name} is declared {value.shape}, and is {found} at {name}"
                self.misdeclared.setdefault(value.name, words)

    def _suspect(
        self, backend: Backend, trial: Trial, tolerance: Mapping[str, float], excess: float
    ) -> None:
        """Keep a trial if its failure is clearer, or says more, than the one that is kept."""
        if excess <= 1:
            return
        clarity = min(excess, CLEAR)
        rank = (-clarity, *self._size(trial.case))
        kept = self.suspects.get(backend)
        if kept is not None and rank >= kept.rank:
            return
        # A smaller part of it is to fail clearly, too, and not by what is just above rounding.
        allowed = {name: max(1.0, clarity / VISIBLE) * value for name, value in tolerance.items()}
        self.suspects[backend] = Suspect(backend, trial, allowed, rank)

    def _size(self, case: Case) -> tuple[bool, int, int]:
        """Order cases: the smallest is best in which all rows of statistics come into play."""
        return case.time < 2 * self.graph.metadata.steps, case.time, -case.batch

    def _add_curve(self, backend: Backend, time: int, value: str, runs: Runs) -> None:
        shape = next((v.shape for v in self.graph.outputs if v.name == value), ())
        length = self.graph.metadata.length
        axis = shape.index(TIME) if TIME in shape else None
        if axis is None and length is not None and time == length and length in shape:
            axis = shape.index(length)
        if axis is None or runs.checked.shape != runs.truth.shape:
            return
        found = curve(time, value, runs, axis, **backend._asdict())
        key = (backend, time, value)
        self.curves[key] = found.merged(self.curves[key]) if key in self.curves else found


def converting(graph: Graph, *, checked: bool = True) -> Run:
    """Return a function that runs a graph on feeds in the dtypes that it takes."""
    run = graph.run if checked else graph.run_unchecked
    return lambda feeds: run(converted(graph, feeds))


def converted(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return feeds in the dtypes that a graph takes."""
    dtypes = {value.name: value.dtype for value in (*graph.inputs, *graph.state_inputs)}
    return {name: array.astype(dtypes[name] or array.dtype) for name, array in feeds.items()}


def _off_by_an_ulp(feeds: Mapping[str, Array], generator: np.random.Generator) -> dict[str, Array]:
    """Return inputs whose floating point numbers are off by an ULP of float32 at random."""
    moved = dict(feeds)
    for name, array in feeds.items():
        if array.dtype.kind == "f":
            ulps = generator.integers(-1, 2, array.shape) * EPS["float32"]
            moved[name] = (array.astype(np.float64) * (1 + ulps)).astype(array.dtype)
    return moved
