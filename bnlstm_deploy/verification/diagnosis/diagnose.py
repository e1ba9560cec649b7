"""Why a graph fails its check: where the error comes from, and which known mistake it is."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from bnlstm_deploy.checkpoint import state_sha256
from bnlstm_deploy.codec import to_plain
from bnlstm_deploy.errors import VerificationError
from bnlstm_deploy.exporting.export import fold_layers
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.runtime.providers import Provider
from bnlstm_deploy.signature import Array
from bnlstm_deploy.verification.diagnosis.arrays import ArrayDifference, FileArrays, compare_arrays
from bnlstm_deploy.verification.diagnosis.held import run_arrays
from bnlstm_deploy.verification.diagnosis.mistakes import (
    EXPLAINED,
    PROMISING,
    Confirmed,
    confirmed_mistakes,
)
from bnlstm_deploy.verification.diagnosis.narrowing import Minimal, excess, narrow, time_of
from bnlstm_deploy.verification.diagnosis.origin import Origin
from bnlstm_deploy.verification.diagnosis.places import find_arrays, find_nodes, places
from bnlstm_deploy.verification.diagnosis.trace import trace
from bnlstm_deploy.verification.measuring.approximation import approximation_in
from bnlstm_deploy.verification.measuring.lengths import find_lengths
from bnlstm_deploy.verification.measuring.process import Graph
from bnlstm_deploy.verification.measuring.trial import Run, TorchModel

FEW_ELEMENTS = 4
"""Elements of the file's arrays that may differ for them to be the answer."""


@dataclass(frozen=True)
class Diagnosis:
    """What is known of a failure."""

    fails: bool
    """Whether the graph fails on the inputs at all."""
    reproduced: bool
    """Whether the debug copy of the graph fails, too; else the origins are unknown."""
    stream: int | None
    """The stream that fails alone; None if none does."""
    time: int | None
    """The shortest T at which it fails; None if there is no time axis to cut."""
    origins: tuple[Origin, ...]
    """All values that introduce error, in the order in which the graph computes them; of each
    layer and direction the first timestep only."""
    hypotheses: tuple[Confirmed, ...]
    """Known mistakes that explain the outputs, the best first."""
    arrays: tuple[ArrayDifference, ...]
    """Arrays of the file that are not those of the model's fold."""
    tested: int
    """How many mistakes were computed."""
    stale: bool
    """Whether the file records the hash of another checkpoint."""
    fold_error: float
    """How far the fold in float64 is from the training model, on the smallest failing input."""
    minimal: Minimal | None = None
    """The smallest failing input; None if it does not fail."""

    @property
    def origin(self) -> Origin | None:
        """The first value that introduces error."""
        return self.origins[0] if self.origins else None

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the smallest failing input as values that JSON can hold."""
        content = {
            "summary": str(self),
            "origin": None if self.origin is None else _described(self.origin),
            "other_origins": [_described(origin) for origin in self.origins[1:]],
            "hypotheses": [_described(confirmed) for confirmed in self.hypotheses],
            "hypotheses_tested": self.tested,
            "arrays": [_described(difference) for difference in self.arrays],
        }
        names = ("fails", "reproduced", "stream", "time", "stale", "fold_error")
        content |= {name: getattr(self, name) for name in names}
        return to_plain(content)

    def __str__(self) -> str:
        if not self.fails:
            return "the graph does not fail on these inputs"
        if self.origin is not None:
            first = str(self.origin)
        elif self.reproduced:
            first = "no single value is off by more than rounding explains"
        else:
            first = "the debug copy of the graph does not fail: the providers differ"
        lines = [f"origin: {first}"]
        lines += [f"explained by: {confirmed}" for confirmed in self.hypotheses[:3]]
        if not self.hypotheses:
            lines.append(f"none of {self.tested} known mistakes explains it")
        lines += [f"array {difference}" for difference in self.arrays[:3]]
        return "\n".join(lines)


def diagnose(
    model: nn.Module,
    path: str | Path,
    feeds: Mapping[str, Array],
    *,
    run: Run,
    tolerance: Mapping[str, float],
    providers: Sequence[Provider] = ("cpu",),
) -> Diagnosis:
    """Find out why a graph fails.

    The inputs are narrowed to the smallest part that fails: one stream, the shortest sequence. On
    that a debug copy of the graph is run that shows its intermediates, and each is compared with
    what float64 makes of the graph's *own* inputs to it. Then mistakes that people make are made in
    the model, one by one, and those that give what the graph gives are confirmed, on all inputs.

    What is held in memory at a time is one intermediate of one layer, (T, 1, 4H), and the cells of
    all layers, for the one stream.

    Args:
        model: The training model.
        path: The ONNX file.
        feeds: The failing inputs, by the graph's names.
        run: Runs the deployed graph: arrays by input name to arrays by output name.
        tolerance: The largest error of each output that rounding explains, by name. Outputs that
            are not in it are not judged.
        providers: On which to run the debug copy.

    Raises:
        VerificationError: The file was exported from a model with other layers.
        RuntimeSessionError: The file or its debug copy cannot be run.
        FoldError: The model cannot be folded.
    """
    path = Path(path)
    graph = Session(path, providers=providers, native=False)
    proto = onnx.load(path)
    metadata = graph.metadata
    if metadata.inlined:
        raise VerificationError(
            "an inlined file does not show its layers; diagnose one that is exported without inline"
        )
    nodes = find_nodes(model, proto)
    arrays, held = compare_arrays(model, proto, metadata, find_arrays(model, proto))
    stale = metadata.checkpoint_sha256 not in {
        state_sha256(model, dtype) for dtype in (None, torch.float32, torch.float64)
    }
    trained = TorchModel(copy.deepcopy(model), graph, torch.float64)
    truth = trained
    approximation = approximation_in(model, proto, metadata)
    if not approximation.exact:
        changed = fold_layers(model, torch.float64, approximation)
        truth = TorchModel(changed, graph, torch.float64)
    inputs = [torch.from_numpy(feeds[value.name]) for value in graph.inputs]
    lengths = [graph.inputs[number].name for number in find_lengths(model, inputs)]
    minimal = narrow(graph, feeds, run, truth.run, tolerance, lengths)
    if minimal is None:
        return Diagnosis(False, False, None, None, (), (), arrays, 0, stale, 0.0)
    whole = Minimal(feeds, truth.run(feeds), run(feeds), None, time_of(graph, feeds))
    reproduced, origins = trace(model, graph, proto, nodes, minimal, tolerance, providers)
    expected = whole.expected
    floats = {n: t for n, t in tolerance.items() if n in expected and expected[n].dtype.kind == "f"}
    confirmed = _by_arrays(model, graph, whole, floats, (arrays, held), stale)
    tested = int(bool(arrays))
    if not (confirmed and _few(arrays)):
        named = {(origin.module, origin.layer, origin.direction) for origin in origins}
        suspects = [p for p in places(model) if (p.path, p.layer, p.direction) in named]
        made, tried = confirmed_mistakes(model, graph, minimal, whole, floats, suspects)
        confirmed, tested = made + confirmed, tested + tried
    exact_fold = fold_layers(model, torch.float64)
    folded = TorchModel(exact_fold, graph, torch.float64).run(minimal.feeds)
    expected = trained.run(minimal.feeds)
    return Diagnosis(
        fails=True,
        reproduced=reproduced,
        stream=minimal.stream,
        time=minimal.time,
        origins=tuple(replace(o, stream=minimal.stream or o.stream) for o in origins),
        hypotheses=tuple(confirmed),
        arrays=arrays,
        tested=tested,
        stale=stale,
        fold_error=excess(folded, expected, dict.fromkeys(expected, 1.0)),
        minimal=minimal,
    )


def _by_arrays(
    model: nn.Module,
    graph: Graph,
    whole: Minimal,
    tolerance: Mapping[str, float],
    file: tuple[tuple[ArrayDifference, ...], FileArrays],
    stale: bool,
) -> list[Confirmed]:
    """Test whether the file's arrays are what is wrong."""
    differences, held = file
    if not differences:
        return []
    left = excess(whole.actual, run_arrays(model, graph, whole.feeds, held), tolerance)
    error = excess(whole.actual, whole.expected, tolerance)
    if left > EXPLAINED * error or left > max(1.0, PROMISING * error):
        return []
    names = ", ".join(difference.name for difference in differences[:4])
    more = f" and {len(differences) - 4} more" * (len(differences) > 4)
    words = f"the file's arrays are not those of the model's fold: {names}{more}"
    if _few(differences):
        words = "a few elements differ: " + "; ".join(map(str, differences))
    elif stale:
        words = f"stale export: the file is of another checkpoint ({names}{more} differ)"
    return [Confirmed(words, left, left / error)]


def _few(differences: Sequence[ArrayDifference]) -> bool:
    return sum(difference.elements for difference in differences) <= FEW_ELEMENTS


def _described(part: Origin | Confirmed | ArrayDifference) -> dict[str, Any]:
    return {"text": str(part), **asdict(part)}
