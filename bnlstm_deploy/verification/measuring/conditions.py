"""Conditions beside lengths and states: what one stream does to others, and extreme inputs."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bnlstm_deploy.signature import Array
from bnlstm_deploy.verification.measuring.cases import Case
from bnlstm_deploy.verification.measuring.checker import Checker
from bnlstm_deploy.verification.measuring.draw import Draw
from bnlstm_deploy.verification.measuring.process import Graph
from bnlstm_deploy.verification.measuring.trial import Trial, alike

EXTREMES = {"all zero": 0.0, "huge": 1e3, "saturating": 1e6}
"""Kinds of inputs, as multiples of the sample."""

BESIDE = {"huge": 1e3, "NaN": np.nan}
"""What is put in the place of all streams but the first."""

FLOAT16_EXTREME = 1e4
"""The largest multiple for a float16 graph: above 65504 its inputs are infinite."""

JITTERS = 4
"""Extreme inputs saturate nearly all gates, and the few that are not decide."""

LONGEST = 32
"""Timesteps of these cases at most: they are about values, not about steps."""

Change = Callable[[Array, int, int | None], Array]
"""Takes an input, the axis of its streams, and that of time if it has one."""


def check_conditions(checker: Checker, make_trial: Draw) -> None:
    """Measure extreme inputs, and streams beside others that must not matter to them.

    Args:
        checker: Runs what is measured.
        make_trial: Draws inputs for a case.
    """
    metadata = checker.graph.metadata
    steps = metadata.length or min(metadata.steps + 1, LONGEST)
    case = Case(steps, 7, state=True)
    reduced = metadata.dtype == "float16"
    extreme: dict[str, Trial] = {}
    for kind, multiple in EXTREMES.items():
        factor = min(multiple, FLOAT16_EXTREME) if reduced else multiple
        scaled = _changed(make_trial(case), checker.graph, _times(factor))
        if scaled is not None:
            extreme[kind] = scaled
    beside = {words: make_trial(case) for words in BESIDE}
    padded = make_trial(Case(steps, 7, state=True, lengths="random"))
    checker.references.prepare(
        [(trial, JITTERS) for trial in extreme.values()]
        + [(trial, 0) for trial in (*beside.values(), padded)],
        make_trial.most_streams(steps),
    )
    for kind, trial in extreme.items():
        checker.measure("conditions", trial, label=f"{case}, {kind} inputs", inputs=kind)
    axes = checker.graph.signature.batch_axes

    def first(name: str, array: Array) -> Array:
        return array.take([0], axis=axes[name]) if name in axes else array[:0]

    for words, trial in beside.items():
        spoilt = _changed(trial, checker.graph, _all_but_the_first(BESIDE[words]))
        if spoilt is not None and _agree(checker, trial, spoilt, first):
            label = f"{case}, beside streams of {words}"
            checker.measure("conditions", trial, label=label, run_with=spoilt, select=first)
    if steps > 1:
        _check_padding(checker, padded)


def _check_padding(checker: Checker, trial: Trial) -> None:
    """What lies past a stream's length must not matter."""
    given = [name for name in checker.graph.signature.lengths if name in trial.feeds[0]]
    if not given:
        return
    lengths: Any = trial.feeds[0][given[0]]

    def spoil(array: Array, batch: int, time: int | None) -> Array:
        if time is None:
            return array
        spoilt = np.moveaxis(array.copy(), (batch, time), (0, 1))
        spoilt[np.arange(spoilt.shape[1]) >= lengths[:, None]] = np.nan
        return np.moveaxis(spoilt, (0, 1), (batch, time))

    spoilt = _changed(trial, checker.graph, spoil)
    if spoilt is not None and _agree(checker, trial, spoilt):
        label = f"{trial.case}, padding of NaN"
        checker.measure("conditions", trial, label=label, run_with=spoilt)


def _times(factor: float) -> Change:
    return lambda array, batch, time: (array.astype(np.float64) * factor).astype(array.dtype)


def _all_but_the_first(value: float) -> Change:
    def change(array: Array, batch: int, time: int | None) -> Array:
        del time
        spoilt = np.moveaxis(array.copy(), batch, 0)
        spoilt[1:] = value
        return np.moveaxis(spoilt, 0, batch)

    return change


def _changed(trial: Trial, graph: Graph, change: Change) -> Trial | None:
    """Change the floating point inputs of a trial; None if it has none."""
    feeds = dict(trial.feeds[0])
    batch, time = graph.signature.batch_axes, graph.signature.time_axes
    own = [value.name for value in graph.inputs if value.name in batch]
    floats = [name for name in own if feeds[name].dtype.kind == "f"]
    for name in floats:
        feeds[name] = change(feeds[name], batch[name], time.get(name))
    return trial.with_feeds([feeds]) if floats else None


def _agree(
    checker: Checker,
    trial: Trial,
    spoilt: Trial,
    select: Callable[[str, Array], Array] = lambda name, array: array,
) -> bool:
    """Whether the training model itself gives the same; a model of one's own need not."""
    one, other = (
        {name: select(name, value) for name, value in each.run(checker.truth.run).items()}
        for each in (trial, spoilt)
    )
    return alike(one, other)
