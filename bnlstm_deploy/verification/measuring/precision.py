"""The cases of the stage precision: lengths, batches, states, start steps, chunks, branches."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bnlstm_deploy.metadata import CARRIED
from bnlstm_deploy.signature import Array
from bnlstm_deploy.verification.measuring.branches import SHORT, Branches
from bnlstm_deploy.verification.measuring.cases import Case, Lengths, make_cases
from bnlstm_deploy.verification.measuring.checker import Checker, converted
from bnlstm_deploy.verification.measuring.conditions import JITTERS
from bnlstm_deploy.verification.measuring.draw import Draw
from bnlstm_deploy.verification.measuring.process import Graph
from bnlstm_deploy.verification.measuring.trial import Trial, alike

if TYPE_CHECKING:
    from bnlstm_deploy.verification.measuring.endpoint import Endpoint

LENGTHS: tuple[Lengths | None, ...] = ("random", None)
"""Of the cases that are made for branches."""

ABOVE = (2**31, 2**40)
"""Lengths of streams that are as long as the input."""


def check_precision(
    checker: Checker,
    draw: Draw,
    generator: np.random.Generator,
    served: "Endpoint | None",
    branches: Branches | None,
    show: Callable[[str, int, int], None],
) -> list[str]:
    """Measure lengths, batches, states, start steps and chunks, with the server's states too.

    A server takes what a client may send; a file, whatever its operators take, in every branch.

    Args:
        checker: Runs what is measured.
        draw: Draws the inputs of the cases.
        generator: Of the lengths and chunks of the cases.
        served: The server that is checked in the place of the file, if one is.
        branches: Of the file, if it is the file that is checked.
        show: Called with the stage, the number of its cases done, and of all of them.

    Returns:
        What was left out, and why.
    """
    not_checked = []
    metadata = checker.graph.metadata
    cases = make_cases(
        metadata.steps,
        streams=_carries(checker.graph),
        generator=generator,
        length=metadata.length,
        most_streams=draw.most_streams,
    )
    by_time: dict[int, list[Trial]] = {}
    for case in cases:
        by_time.setdefault(case.time, []).append(draw(case))
    for done, trial in enumerate(_prepared(checker, draw, by_time)):
        show("precision", done, len(cases))
        case = trial.case
        truth = checker.truth.run
        if case.chunks and not alike(trial.run(truth), trial.run_chunks(truth)):
            not_checked.append(
                f"{case}: the training model itself does not give in chunks what it gives at once"
            )
            continue
        checker.measure("precision", trial)
        if case.chunks and served is not None:
            label = f"{case}, state on the server"
            checker.measure("precision", trial, label=label, run_with=served.in_sequence(trial))
        if branches is not None and not case.chunks:
            branches.note(converted(checker.graph, trial.feeds[0]))
            beyond = _beyond(trial) if case.lengths == "random" else None
            if beyond is not None:
                label = f"{case}, lengths above T"
                checker.measure("precision", trial, label=label, run_with=beyond)
    if branches is not None:
        _check_branches(checker, draw, branches)
    show("precision", len(cases), len(cases))
    return not_checked


def _prepared(checker: Checker, draw: Draw, by_time: Mapping[int, list[Trial]]) -> Iterator[Trial]:
    """Yield trials when what they are measured by is there, those of one T together."""
    for time, trials in by_time.items():
        whole = [trial for trial in trials if not trial.case.chunks]
        # The yardstick is taken several times, for that of one run is luck.
        wanted = [(trial, JITTERS) for trial in whole]
        checker.references.prepare(wanted, draw.most_streams(time))
        yield from trials


def _check_branches(checker: Checker, draw: Draw, branches: Branches) -> None:
    """Measure the sizes that run what no case has run yet."""

    def feeds(case: Case) -> Mapping[str, Array]:
        return converted(checker.graph, draw(case).feeds[0])

    for lengths in LENGTHS:
        case = branches.case(feeds, draw.most_streams(SHORT), lengths)
        if case is not None:
            trial = draw(case)
            checker.measure("precision", trial)
            branches.note(converted(checker.graph, trial.feeds[0]))


def _beyond(trial: Trial) -> Trial | None:
    """Return a trial whose lengths are above T where they were T, which means the same."""
    feeds = dict(trial.feeds[0])
    names = set(trial.graph.signature.lengths) & feeds.keys() - set(trial.lengths)
    for name in names:
        whole = feeds[name] == trial.case.time
        feeds[name] = np.where(whole, np.resize(ABOVE, feeds[name].shape), feeds[name])
    return replace(trial, feeds=[feeds], checked=False) if names else None


def _carries(graph: Graph) -> bool:
    """Whether a graph takes in and gives out all that continues its streams."""
    layers, carried = graph.metadata.layers, graph.signature.carried
    outputs = {value.name for value in graph.state_outputs}
    return (
        all(entry.streams for entry in layers)
        and len(carried) == len(CARRIED) * len(layers)
        and outputs.issuperset(carried.values())
    )
