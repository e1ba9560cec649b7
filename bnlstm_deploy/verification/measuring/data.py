"""The user's own data: what the graph's errors do to its answers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.npz import read_npz
from bnlstm_deploy.runtime.inputs import check_feeds
from bnlstm_deploy.signature import TIME, Array
from bnlstm_deploy.verification.measuring.backend import Backend, OfBackend
from bnlstm_deploy.verification.measuring.cases import Case
from bnlstm_deploy.verification.measuring.checker import Checker, converted
from bnlstm_deploy.verification.measuring.process import Graph
from bnlstm_deploy.verification.measuring.trial import Trial

INPUT_NAMES = ("x", "input")
"""What the array of a model with one input may be called, whatever the model calls it."""


@dataclass(frozen=True)
class Agreement(OfBackend):
    """How the answers of a graph agree with those of the float64 training model.

    An answer is the largest of the last axis of the first output.
    """

    answers: int
    """Number of answers: rows, or rows * timesteps."""
    agreeing: int
    labelled: int = 0
    """Answers with a label."""
    correct: int = 0
    """Labelled answers that the graph gets right."""
    correct_truth: int = 0
    """Labelled answers that the training model gets right."""

    def __str__(self) -> str:
        text = f"{self.agreeing} of {self.answers} answers agree"
        if self.labelled:
            graph, truth = (100 * n / self.labelled for n in (self.correct, self.correct_truth))
            text += f", accuracy {graph:.2f} % against {truth:.2f} % ({graph - truth:+.2f})"
        return text

    def __add__(self, other: "Agreement") -> "Agreement":
        counts = ("answers", "agreeing", "labelled", "correct", "correct_truth")
        return replace(self, **{n: getattr(self, n) + getattr(other, n) for n in counts})


@dataclass(frozen=True)
class Data:
    """Inputs of a user, by the names of the graph, and labels if there are any."""

    feeds: Mapping[str, Array]
    labels: Array | None
    batch_axes: Mapping[str, int]
    """The axis of the rows of each input."""
    rows: int
    """How many there are."""
    time: int
    """T."""

    def batches(self, size: int) -> Iterator[tuple[str, dict[str, Array], Array | None]]:
        """Yield batches of rows: what to call them, their inputs, and their labels."""
        for start in range(0, self.rows, size):
            rows = np.arange(start, min(start + size, self.rows))
            feeds = {
                name: array.take(rows, axis=self.batch_axes[name])
                for name, array in self.feeds.items()
            }
            labels = None if self.labels is None else self.labels[rows]
            yield f"rows {start} to {rows[-1]}", feeds, labels


def read_data(paths: Sequence[Path], graph: Graph) -> Data:
    """Read inputs, and labels, from `.npz` files.

    Args:
        paths: One file or more. Arrays are named as the graph's inputs (`x` will do for a model of
            one input), and labels, integers (N,) or (N, T), are named `y`.
        graph: The graph.

    Raises:
        InputError: A file cannot be read, or its arrays do not fit the graph.
    """
    arrays: dict[str, Array] = {}
    for path in paths:
        found = read_npz(path)
        twice = sorted(arrays.keys() & found.keys())
        if twice:
            raise InputError(f"{path} holds {twice}, which a file before it holds, too; join them")
        arrays |= found
    labels = arrays.pop("y", None)
    names = [value.name for value in graph.inputs]
    if len(names) == 1 and names[0] not in arrays:
        for name in INPUT_NAMES:
            if name in arrays:
                arrays[names[0]] = arrays.pop(name)
                break
    if set(arrays) != set(names):
        raise InputError(
            f"the data holds the arrays {sorted(arrays)}; the graph's inputs are {names}, and "
            "labels are called y"
        )
    check_feeds(converted(graph, arrays), graph.signature)
    axes = {name: graph.signature.batch_axes.get(name, 0) for name in names}
    rows = int(arrays[names[0]].shape[axes[names[0]]])
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape[:1] != (rows,)):
        raise InputError(
            f"y is {labels.dtype} of shape {labels.shape}; pass integers for {rows} rows"
        )
    time = graph.metadata.length or graph.signature.sizes(arrays).get(TIME, 1)
    return Data(arrays, labels, axes, rows, time)


def agree(actual: Array, truth: Array, labels: Array | None, batch_axis: int) -> Agreement | None:
    """Compare the answers of a graph with the truth's; None for an output of fewer than 2 classes.

    Args:
        actual: The graph's first output, (N, K), (N, T, K) or (T, N, K).
        truth: The same, of the float64 training model.
        labels: (N,) or (N, T), or None. Labels of rows are not compared with answers of timesteps.
        batch_axis: The axis of the rows.
    """
    if actual.ndim < 2 or actual.shape[-1] < 2:
        return None
    ours, exact = (np.moveaxis(a.argmax(axis=-1), batch_axis, 0) for a in (actual, truth))
    agreeing = int((ours == exact).sum())
    if labels is None or labels.shape != ours.shape:
        return Agreement(ours.size, agreeing)
    correct, correct_truth = (int((a == labels).sum()) for a in (ours, exact))
    return Agreement(ours.size, agreeing, labels.size, correct, correct_truth)


def check_data(
    checker: Checker, data: Data, most_streams: Callable[[int], int]
) -> tuple[Agreement, ...]:
    """Measure the user's own data, in batches that fit into memory.

    Returns:
        How the answers of each graph agree; nothing if the first output has no classes.
    """
    graph = checker.graph
    first, rows_of = graph.outputs[0], graph.inputs[0].name
    axis = graph.signature.batch_axes.get(first.name, 0)
    total: dict[Backend, Agreement] = {}
    for label, feeds, labels in data.batches(most_streams(data.time)):
        streams = feeds[rows_of].shape[data.batch_axes[rows_of]]
        trial = Trial(graph, Case(data.time, streams), [feeds])
        actuals = checker.measure("data", trial, label=label, inputs="data")
        truth = checker.references.of(trial).expected[first.name]
        for backend, actual in actuals.items():
            found = agree(actual[first.name], truth, labels, axis)
            if found is not None:
                found = replace(found, **backend._asdict())
                total[backend] = total[backend] + found if backend in total else found
    return tuple(total.values())
