"""Known mistakes, tested by computation: which one gives the outputs that the graph gives?"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bnlstm_deploy.errors import FoldError
from bnlstm_deploy.fold import FoldedLSTM, merge
from bnlstm_deploy.fold.folded import FoldedDirection
from bnlstm_deploy.runtime.inputs import Array
from bnlstm_deploy.verify.diagnosis.alterations import ALTERATIONS
from bnlstm_deploy.verify.diagnosis.altered import AlteredModel, Folds, exchanged
from bnlstm_deploy.verify.diagnosis.calls import CALL_ALTERATIONS, PRECISIONS
from bnlstm_deploy.verify.diagnosis.narrowing import TINY, Minimal, excess
from bnlstm_deploy.verify.diagnosis.parts import Parts
from bnlstm_deploy.verify.diagnosis.places import Place, bnlstms, places
from bnlstm_deploy.verify.diagnosis.recompute import EPS
from bnlstm_deploy.verify.process import Graph

EXPLAINED = 0.5
"""Part of the error that a confirmed hypothesis leaves unexplained at most, however loose the
tolerance is."""

PROMISING = 0.2
"""The same on the smallest failing input, from which on all inputs are tried."""

ALIKE = 2.0
"""Times the smallest residual within which hypotheses cannot be told apart."""

ROUNDINGS = 8.0
"""Times its own error in the graph's dtype, and ULP, that an altered model may be off."""

CORRELATION = 0.9
"""Of an emulated and the observed error from which on it is the same; and how alike in size."""
LIKE_MAGNITUDE = (1 / 3, 3.0)


@dataclass(frozen=True)
class Hypothesis:
    """A mistake that could have been made."""

    name: str
    folds: Callable[[], Folds]
    """Makes the layers with the mistake in them, of the BNLSTM that have it."""
    kind: str = "exact"
    """`exact`: the outputs must be equal. `rounding`: the errors must be alike."""


@dataclass(frozen=True)
class Confirmed:
    """A mistake that explains the outputs of the graph."""

    name: str
    residual: float
    """Largest error that it leaves, as a multiple of what is allowed."""
    unexplained: float
    """The same as a part of the observed error."""
    ambiguous: bool = False
    """Whether the inputs cannot tell it from another one that is confirmed."""

    def __str__(self) -> str:
        return f"{self.name} (leaves {self.unexplained:.1%} of the error)" + (
            ", or another one that these inputs cannot tell from it" if self.ambiguous else ""
        )


class Tester:
    """Tests hypotheses on one failing input.

    Args:
        model: The training model.
        graph: The deployed graph, for its names and metadata.
        minimal: The smallest failing input.
        whole: The whole failing input.
        tolerance: The largest error that is allowed of each output.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        minimal: Minimal,
        whole: Minimal,
        tolerance: Mapping[str, float],
    ) -> None:
        self.exact = AlteredModel(model, graph, torch.float64)
        self.rounded = AlteredModel(model, graph, torch.float32)
        self.merge_tolerance = graph.metadata.merge_tolerance
        self.minimal, self.whole = minimal, whole
        self.tolerance = {
            name: allowed
            for name, allowed in tolerance.items()
            if name in whole.expected and whole.expected[name].dtype.kind == "f"
        }
        self.eps = EPS[graph.metadata.dtype]
        self.modules = bnlstms(model)
        self.places = list(places(model))
        self._known: dict[Place, Parts] = {}
        names = [f"{entry.value_name('start_step')}" for entry in graph.metadata.layers]
        starts = [int(whole.feeds[name].max()) for name in names if name in whole.feeds]
        self.reached = max(starts, default=0) + (whole.time or 1)

    def test(self, hypotheses: Sequence[Hypothesis]) -> list[Confirmed]:
        """Return the confirmed hypotheses, those that explain the most first."""
        found: list[Confirmed] = []
        for hypothesis in hypotheses:
            try:
                folds = hypothesis.folds()
            except FoldError:  # a mistake that this model's numbers do not admit
                continue
            if folds:
                test = self._rounding if hypothesis.kind == "rounding" else self._exact
                residual = test(folds)
                if residual is not None:
                    found.append(Confirmed(hypothesis.name, *residual))
        return self._ranked(found)

    def _exact(self, folds: Folds) -> tuple[float, float] | None:
        """Return what is left of the error, if the outputs are equal: small inputs first."""
        error = excess(self.minimal.actual, self.minimal.expected, self.tolerance)
        left = self._left(self.minimal, folds)
        if error > 1 and left > max(1.0, PROMISING * error):
            return None
        error = excess(self.whole.actual, self.whole.expected, self.tolerance)
        left = self._left(self.whole, folds)
        if not np.isfinite(left) or left > EXPLAINED * error:
            return None
        if left > 1 and left > ROUNDINGS * self._own_error(folds):
            return None
        return left, left / error

    def _left(self, case: Minimal, folds: Folds) -> float:
        return excess(case.actual, self.exact.run(case.feeds, folds), self.tolerance)

    def _own_error(self, folds: Folds) -> float:
        """What rounding does to the altered model: it may amplify more than the model."""
        exact, rounded = (m.run(self.whole.feeds, folds) for m in (self.exact, self.rounded))
        return excess(rounded, exact, self.tolerance)

    def _rounding(self, folds: Folds) -> tuple[float, float] | None:
        """Return what is left of the error, if the emulated error is like the observed one."""
        for case in (self.whole, self.minimal):
            emulated = self.exact.run(case.feeds, folds)
            observed, like = (self._errors(o, case) for o in (case.actual, emulated))
            sizes = float(np.linalg.norm(observed)), float(np.linalg.norm(like))
            if not all(0 < size < np.inf for size in sizes):
                continue
            correlation = float(observed @ like) / (sizes[0] * sizes[1])
            low, high = LIKE_MAGNITUDE
            if correlation > CORRELATION and low < sizes[1] / sizes[0] < high:
                left = excess(case.actual, emulated, self.tolerance)
                return left, left / excess(case.actual, case.expected, self.tolerance)
        return None

    def _errors(self, outputs: Mapping[str, Array], case: Minimal) -> NDArray[np.float64]:
        """All errors as multiples of what is allowed, in one vector."""
        if any(outputs[name].shape != case.expected[name].shape for name in self.tolerance):
            return np.array([np.inf])
        errors = [
            (outputs[name].astype(np.float64) - case.expected[name].astype(np.float64)).ravel()
            / max(allowed, TINY)
            for name, allowed in self.tolerance.items()
        ]
        return np.concatenate(errors)

    def _ranked(self, found: list[Confirmed]) -> list[Confirmed]:
        """Those that cannot be told from the best come first, in the order of the table."""
        if not found:
            return []
        floors = [
            ROUNDINGS
            * self.eps
            * float(np.abs(self.whole.expected[n]).max(initial=0))
            / max(t, TINY)
            for n, t in self.tolerance.items()
        ]
        limit = ALIKE * min(c.residual for c in found) + min(max(floors, default=0.0), 1.0)
        alike = [c for c in found if c.residual <= limit]
        rest = sorted((c for c in found if c.residual > limit), key=lambda c: c.residual)
        return [replace(c, ambiguous=len(alike) > 1) for c in alike] + rest

    def hypotheses(self, suspects: Sequence[Place] | None) -> Iterator[Hypothesis]:
        """Yield known mistakes, the most specific first.

        Args:
            suspects: Layers and directions that introduce error, all of them; None if they are not
                known. A mistake in one of several alone would leave the errors of the others.
        """
        if suspects is None:
            yield from self._in_arrays([[place] for place in self.places])
        elif suspects:
            yield from self._in_arrays([list(suspects)])
        for alteration in CALL_ALTERATIONS:
            for words, paths in self._scopes():
                yield Hypothesis(alteration.name + words, self._call(alteration.make, paths))
        if suspects is None or len(suspects) > 1:
            yield from self._swapped_statistics(self.places)
        for alteration in PRECISIONS:
            call = self._call(alteration.make, list(self.modules))
            yield Hypothesis(alteration.name, call, "rounding")

    def _in_arrays(self, scopes: list[list[Place]]) -> Iterator[Hypothesis]:
        """Mistakes in the arrays of each scope, and everywhere."""
        every = self.places
        named = [(", in " + " and ".join(map(str, s)), s) for s in scopes if s != every]
        named.append((", everywhere" if len(every) > 1 else "", every))
        for alteration in ALTERATIONS:
            for words, where in named:

                def folds(
                    make: Callable[[Parts], FoldedDirection | None] = alteration.make,
                    where: list[Place] = where,
                ) -> Folds:
                    altered = {place: make(self._parts(place)) for place in where}
                    return self._with({p: d for p, d in altered.items() if d is not None})

                yield Hypothesis(alteration.name + words, folds)

    def _swapped_statistics(self, every: list[Place]) -> Iterator[Hypothesis]:
        for one, other in itertools.combinations(every, 2):
            if one.path == other.path and (one.layer, one.reverse) != (other.layer, other.reverse):

                def folds(one: Place = one, other: Place = other) -> Folds:
                    first, second = self._parts(one), self._parts(other)

                    def norms(parts: Parts) -> dict[str, object]:
                        return {"input": parts.input, "hidden": parts.hidden, "cell": parts.cell}

                    return self._with(
                        {
                            one: replace(first, **norms(second)).fold(),  # type: ignore[arg-type]
                            other: replace(second, **norms(first)).fold(),  # type: ignore[arg-type]
                        }
                    )

                yield Hypothesis(f"statistics of {one} and {other} swapped", folds)

    def _scopes(self) -> list[tuple[str, list[str]]]:
        paths = list(self.modules)
        if len(paths) == 1:
            return [("", paths)]
        return [(f", in {path}", [path]) for path in paths] + [(", everywhere", paths)]

    def _call(
        self, make: Callable[[FoldedLSTM], FoldedLSTM | None], paths: list[str]
    ) -> Callable[[], Folds]:
        def folds() -> Folds:
            made = {path: make(self.exact.folds[path]) for path in paths}
            return {path: fold for path, fold in made.items() if fold is not None}

        return folds

    def _parts(self, place: Place) -> Parts:
        if place not in self._known:
            module = self.modules[place.path]
            self._known[place] = Parts.of(module, place.suffix, self.reached)
        return self._known[place]

    def _with(self, changed: Mapping[Place, FoldedDirection]) -> Folds:
        """The layers of the model with some directions exchanged."""
        return exchanged(
            self.exact.folds,
            {place: self._merged(direction) for place, direction in changed.items()},
        )

    def _merged(self, direction: FoldedDirection) -> FoldedDirection:
        """Merge rows as the file's were; equal ones change nothing."""
        return merge(direction, self.merge_tolerance) if self.merge_tolerance > 0 else direction
