"""What a set of normalizations costs once it is deployed: time a timestep, and bytes."""

import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bnlstm_deploy.choices import Form
from bnlstm_deploy.errors import ExportError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.native import library_path
from bnlstm_deploy.runtime import Session
from tools import peers
from tools.peers import Run
from tools.study.models import Experiment
from tools.study.tasks import Task

KERNEL = " on the kernel"
FORMS: tuple[Form, ...] = ("scan", "unrolled", "lstm")
SECONDS = 2.0
"""For all variants together, a stream and provider."""


@dataclass(frozen=True)
class Deployed:
    """One variant, exported and run."""

    task: str
    variant: str
    native: bool
    """On the native kernel, or on ONNX Runtime's own operators."""
    form: str
    """Of the graph."""
    streams: int
    us_per_timestep: float
    """Median over the rounds, on one thread of a CPU."""
    kilobytes: float
    """Of the file."""


def measure(
    task: Task, experiments: list[Experiment], streams: int, seconds: float = SECONDS
) -> Iterator[dict[str, object]]:
    """Export the layers of each variant once, and run all in the same rounds; yield their lines."""
    library_path()  # the error says how to build the kernel, whose column it is
    x = np.random.default_rng(0).random((streams, task.sizes.length, task.features), np.float32)
    variants = _graphs(task, experiments)
    with tempfile.TemporaryDirectory() as folder:
        forms, sizes, runs = {}, {}, {}
        for number, (name, experiment) in enumerate(variants.items()):
            path = Path(folder) / f"{number}.onnx"
            forms[name] = export(_layers(task, experiment), path).form
            sizes[name] = path.stat().st_size / 1000
            for native in (True, False):
                session = Session(path, intra_op_num_threads=1, native=native)
                runs[f"{name}{KERNEL if native else ''}"] = _run(session)
        times = peers.interleave(runs, x, seconds)
    for run, taken in times.items():
        native, name = run.endswith(KERNEL), run.removesuffix(KERNEL)
        us = statistics.median(taken) * 1000 / task.sizes.length
        yield asdict(
            Deployed(
                task.name, name, native, forms[name], streams, round(us, 3), round(sizes[name], 1)
            )
        )


def by_form(
    task: Task, experiments: list[Experiment], streams: int, seconds: float = SECONDS
) -> Iterator[dict[str, object]]:
    """Do so for each form that is exact, on ONNX Runtime's operators; the kernel runs all alike."""
    time = task.sizes.length
    x = np.random.default_rng(0).random((streams, time, task.features), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        sizes: dict[tuple[str, str], float] = {}
        runs: dict[str, Run] = {}
        for name, experiment in _graphs(task, experiments).items():
            layers = _layers(task, experiment)
            for form in FORMS:
                path = Path(folder) / f"{len(sizes)}.onnx"
                try:
                    export(layers, path, form=form, length=time if form == "unrolled" else None)
                except ExportError:  # the operator cannot normalize
                    continue
                sizes[name, form] = path.stat().st_size / 1000
                runs[f"{name} {form}"] = _run(Session(path, intra_op_num_threads=1, native=False))
        times = peers.interleave(runs, x, seconds)
    for (name, kind), size in sizes.items():
        us = statistics.median(times[f"{name} {kind}"]) * 1000 / time
        yield asdict(Deployed(task.name, name, False, kind, streams, round(us, 3), round(size, 1)))


def _graphs(task: Task, experiments: list[Experiment]) -> dict[str, Experiment]:
    """Return an experiment for each graph: gamma and initial biases do not show in it."""
    same = Experiment(task.name)
    return {
        e.variant: e
        for e in experiments
        if e.kind == "batch"
        and (e.gamma_init, e.forget_bias, e.dropout)
        == (same.gamma_init, same.forget_bias, same.dropout)
    }


def _layers(task: Task, experiment: Experiment) -> nn.Module:
    torch.manual_seed(0)
    rnn = task.model(experiment).rnn
    peers.randomize(rnn.eval())
    return rnn


def _run(session: Session) -> Run:
    return lambda x: session(x)[0]
