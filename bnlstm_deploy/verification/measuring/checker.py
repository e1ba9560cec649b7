"""The measuring part of a check: one model, its graph on several backends, any inputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from bnlstm_deploy.dtypes import EPS
from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.folding.approximate import Approximation
from bnlstm_deploy.signature import Array
from bnlstm_deploy.verification.judging.comparison import (
    Comparison,
    Curve,
    Runs,
    Stage,
    compare,
    curve,
    distance,
)
from bnlstm_deploy.verification.judging.cost import Cost, cost
from bnlstm_deploy.verification.measuring.backend import Backend
from bnlstm_deploy.verification.measuring.cases import Case
from bnlstm_deploy.verification.measuring.process import Graph
from bnlstm_deploy.verification.measuring.references import Reference, References
from bnlstm_deploy.verification.measuring.trial import Run, Trial

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


class Checker:
    """Runs cases and keeps their comparisons.

    Args:
        model: The training model.
        graphs: The exported graph, by backend.
        seed: Of the inexact activation functions, and of what moves inputs by an ULP.
        approximation: What the graph changes on purpose; by default what its metadata say.

    Attributes:
        references: Runs the training model and its fold.
        truth: The training model in float64.
        target: What the graph ought to be, in float64: the truth, or the fold with merged rows.
        comparisons: Of everything measured.
        curves: Over the timesteps of precision cases, by backend, T and output.
        crashes: Why a graph ended its process, by backend.
        merge_error: How far what the file changes on purpose moved an output at most.
        costs: The same of the model's own outputs, on inputs that are not extreme, by `Cost.kind`.
        misdeclared: Outputs whose shape is not what the file declares, and how, by name.
        suspects: For each backend the trial whose error is furthest beyond the rounding of its own
            case; the places to look if the check fails.
    """

    def __init__(
        self,
        model: nn.Module,
        graphs: Mapping[Backend, Graph],
        seed: int,
        approximation: Approximation | None = None,
    ) -> None:
        self.graphs = dict(graphs)
        self.graph = next(iter(self.graphs.values()))
        self.seed = seed
        self.references = References(model, self.graph, seed, approximation)
        self.truth, self.target = self.references.truth, self.references.target
        self.comparisons: list[Comparison] = []
        self.curves: dict[tuple[Backend, int, str], Curve] = {}
        self.crashes: dict[Backend, str] = {}
        self.merge_error = 0.0
        self.costs: dict[tuple[str, int, str], Cost] = {}
        self.misdeclared: dict[str, str] = {}
        self.suspects: dict[Backend, Suspect] = {}

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
            jitters: How often the yardstick is taken again, unless its reference is there already.
            run_with: What the graph is run on, if its outputs must be those of `trial` all the
                same.
            select: What is to be compared of each output; everything by default.

        Returns:
            What each graph gave, by backend.
        """
        case, name = trial.case, label or str(trial.case)
        known = self.references.of(trial, jitters)
        if known.target is not known.expected:
            moved = [distance(known.target[v], truth) for v, truth in known.expected.items()]
            self.merge_error = max(self.merge_error, *moved)
            if stage in ("precision", "data") and not case.chunks and run_with is None:
                self._add_costs(inputs, case.time, known)
        facts: dict[str, Any] = {"inputs": inputs}
        if stage == "precision" and not case.chunks and run_with is None:
            for value, truth in known.expected.items():
                runs = Runs(known.exact[value], *known.others(value), truth, truth)
                self.comparisons.append(
                    compare("algebra", name, case.time, value, runs, kernel="", **facts)
                )
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

    def _add_costs(self, inputs: str, time: int, known: Reference) -> None:
        for output in self.graph.outputs:
            target, truth = known.target[output.name], known.expected[output.name]
            axis = self._time_axis(output.name, time)
            found = cost(inputs, time, output.name, target, truth, axis)
            earlier = self.costs.get(found.kind)
            self.costs[found.kind] = found if earlier is None else earlier + found

    def _time_axis(self, value: str, time: int) -> int | None:
        """Return the axis of the timesteps; None of what several runs of a fixed T gave, too."""
        several = self.graph.metadata.length not in (None, time)
        return None if several else self.graph.signature.time_axes.get(value)

    def _add_curve(self, backend: Backend, time: int, value: str, runs: Runs) -> None:
        axis = self._time_axis(value, time)
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
