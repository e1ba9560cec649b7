"""One experiment: trained epoch by epoch, so that it goes on where it was interrupted."""

import copy
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from bnlstm_deploy.nn import StepwiseBatchNorm, recalibrate
from bnlstm_deploy.version import __version__
from tools.study.models import Experiment, Model
from tools.study.tasks import Batch, Task, run

CHEAP = 4
"""Minibatches of the recalibration between epochs."""


@dataclass
class Curves:
    """A value for each epoch so far."""

    loss: list[float] = field(default_factory=list)
    """Mean over its minibatches."""
    validation: list[float] = field(default_factory=list)
    """With statistics of CHEAP minibatches, where there are any."""
    moving_averages: list[float] = field(default_factory=list)
    """The same with the moving averages."""
    seconds: list[float] = field(default_factory=list)
    """Of training alone."""


def versions() -> dict[str, str]:
    """Return what results depend on besides the settings."""
    return {
        "bnlstm_deploy": __version__, "torch": torch.__version__,
        "python": platform.python_version(), "machine": platform.machine(),
    }  # fmt: skip


def train(
    experiment: Experiment, task: Task, folder: Path, report: Callable[[int, Curves], None]
) -> dict[str, object]:
    """Train, and return a line for the results file.

    Args:
        experiment: What to train.
        task: On what.
        folder: Holds the state after the last epoch, until the experiment is done, and the model
            after it.
        report: Called after every epoch with their number and the curves so far.

    Returns:
        Settings, curves, and the test's metric with minibatch statistics, with moving averages and
        after recalibration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "state.pt"
    torch.manual_seed(experiment.seed)
    model = task.model(experiment)
    optimizer = torch.optim.Adam(model.parameters(), lr=task.sizes.learning_rate)
    epochs = task.sizes.epochs
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs)
    curves = Curves()
    if file.exists():
        saved = torch.load(file, weights_only=True)
        for part in (model, optimizer, schedule):
            part.load_state_dict(saved[type(part).__name__])
        curves = Curves(**saved["curves"])
        torch.set_rng_state(saved["random"])
    for epoch in range(len(curves.loss), epochs):
        _train_epoch(model, task, optimizer, experiment.seed + 1000 * epoch, curves)
        schedule.step()
        curves.moving_averages.append(task.measure(model.eval(), "validation"))
        calibrated = recalibrated(model, task, experiment.seed, CHEAP)
        curves.validation.append(
            curves.moving_averages[-1]
            if calibrated is model
            else task.measure(calibrated.eval(), "validation")
        )
        state: dict[str, object] = {
            type(part).__name__: part.state_dict() for part in (model, optimizer, schedule)
        }
        state |= {"curves": asdict(curves), "random": torch.get_rng_state()}
        torch.save(state, folder / "new.pt")
        (folder / "new.pt").replace(file)
        report(epoch + 1, curves)
    model.eval()
    test = {"moving_averages": task.measure(model, "test")}
    calibrated = recalibrated(model, task, experiment.seed, None)
    test["recalibrated"] = task.measure(calibrated.eval(), "test")
    test["minibatch"] = task.measure(_by_minibatch(calibrated), "test")
    torch.save(calibrated.state_dict(), folder / "model.pt")
    file.unlink()
    return {
        "variant": experiment.variant,
        "experiment": experiment.settings(),
        "sizes": asdict(task.sizes),
        "metric": task.metric,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "curves": {name: rounded(values) for name, values in asdict(curves).items()},
        "test": {name: rounded([value])[0] for name, value in test.items()},
        "versions": versions(),
    }


def rounded(values: list[float]) -> list[float]:
    """Return them with five significant digits: figures need no more, and files stay small."""
    return [float(f"{value:.5g}") for value in values]


def _train_epoch(
    model: Model, task: Task, optimizer: torch.optim.Optimizer, seed: int, curves: Curves
) -> None:
    model.train()
    losses = []
    start = time.perf_counter()
    # dropout alone draws from torch's own generator
    for output, y in run(model, task.train(torch.Generator().manual_seed(seed))):
        loss = task.loss(output, y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    curves.seconds.append(time.perf_counter() - start)
    curves.loss.append(math.fsum(losses) / len(losses))


def recalibrated(model: Model, task: Task, seed: int, limit: int | None) -> Model:
    """Return a copy with statistics of the training set; the model itself if it has none."""
    if not any(isinstance(module, StepwiseBatchNorm) for module in model.modules()):
        return model

    def forward(module: nn.Module, batches: list[Batch]) -> None:
        for _ in run(module, iter(batches)):
            pass

    def passes() -> Iterator[list[Batch]]:
        """Yield minibatches, all of one epoch together where each goes on with the one before."""
        batches = task.train(torch.Generator().manual_seed(seed + 77))
        if task.every:
            yield list(islice(batches, None if limit is None else 5 * limit))
        else:
            yield from ([batch] for batch in islice(batches, limit))

    worker = copy.deepcopy(model)
    recalibrate(worker, passes(), forward=forward)
    return worker


def _by_minibatch(model: Model) -> Model:
    """Return a copy that normalizes with each minibatch's own statistics."""
    worker = copy.deepcopy(model)
    for module in worker.modules():
        if isinstance(module, StepwiseBatchNorm):
            module.train()
    return worker
