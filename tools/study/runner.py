"""Experiments, one process a core; interrupted, they go on where they were."""

import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.extras import require
from tools.study.models import Experiment
from tools.study.tasks import tasks
from tools.study.training import Curves, train


@dataclass(frozen=True)
class Places:
    """Where a study keeps what it makes."""

    results: Path
    """JSON lines, one for each experiment that is done."""
    work: Path
    """Folders of the experiments: their states, models and TensorBoard's scalars."""

    def folder(self, experiment: Experiment) -> Path:
        """Return the folder of one experiment."""
        return self.work / experiment.name.replace(": ", "/").replace(", ", "-").replace(" ", "-")


def read(results: Path) -> list[dict[str, Any]]:
    """Return the lines of a results file, none if there is none.

    Raises:
        InputError: A line that is not JSON; the last one may have been cut off.
    """
    if not results.exists():
        return []
    lines = []
    for number, line in enumerate(results.read_text().splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(
                f"{results}, line {number} is not JSON ({error}); delete the line: its experiment "
                "is run again"
            ) from None
    return lines


def append(results: Path, line: dict[str, object]) -> None:
    """Add a line to a results file, in one write."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def remaining(experiments: Iterable[Experiment], results: Path) -> Iterator[Experiment]:
    """Yield the experiments that a results file has no line of."""
    done = [line.get("experiment") for line in read(results)]
    for experiment in experiments:
        settings = json.loads(json.dumps(experiment.settings()))
        if settings not in done:
            yield experiment


def run_all(
    experiments: Sequence[Experiment], places: Places, *, quick: bool, processes: int
) -> None:
    """Run those of the experiments that are not done, and append a line for each."""
    require("tensorboard", extra="study")
    todo = list(remaining(experiments, places.results))
    if not todo:
        return
    epochs = {name: task.sizes.epochs for name, task in tasks(quick=quick).items()}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    context = multiprocessing.get_context("spawn")
    with (
        Progress(*columns, TextColumn("epochs"), TimeRemainingColumn()) as progress,
        context.Manager() as manager,
        ProcessPoolExecutor(processes, mp_context=context) as pool,
    ):
        total = sum(epochs[experiment.task] for experiment in todo)
        bar = progress.add_task(f"{len(todo)} experiments", total=total)
        queue = manager.Queue()
        watcher = Thread(target=_watch, args=(queue, progress, bar), daemon=True)
        watcher.start()
        futures = {
            pool.submit(_run, experiment, places.folder(experiment), quick, queue): experiment
            for experiment in todo
        }
        for future in as_completed(futures):
            line = future.result()
            append(places.results, line)
            progress.console.print(f"{futures[future].name}: {line['test']}")
        queue.put(None)
        watcher.join()


def _watch(queue: Queue[int | None], progress: Progress, bar: object) -> None:
    while (epochs := queue.get()) is not None:
        progress.advance(bar, epochs)  # type: ignore[arg-type]  # a TaskID is an int


def _run(
    experiment: Experiment, folder: Path, quick: bool, queue: Queue[int | None]
) -> dict[str, object]:
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # slow to import

    torch.set_num_threads(1)
    # The gradient of a plain LSTM vanishes over 784 timesteps to numbers so small that a CPU takes
    # a hundred times as long for them.
    torch.set_flush_denormal(True)
    task = tasks(quick=quick)[experiment.task]
    before = 0
    with SummaryWriter(str(folder / "tensorboard")) as writer:

        def report(epoch: int, curves: Curves) -> None:
            nonlocal before
            for name in ("loss", "validation", "moving_averages"):
                writer.add_scalar(name, getattr(curves, name)[-1], epoch)
            queue.put(epoch - before)  # those of an interrupted run count, too
            before = epoch

        return train(experiment, task, folder, report)
