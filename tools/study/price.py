"""What the cell's normalization, the only one that cannot fold, is worth in a trained model."""

import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bnlstm_deploy.exporting import export
from bnlstm_deploy.folding import fold
from bnlstm_deploy.folding.merge import merge
from bnlstm_deploy.nn import BNLSTM, StepwiseBatchNorm
from bnlstm_deploy.nn.bnlstm import State
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.signature import Array
from tools.study.models import Experiment, Model
from tools.study.tasks import Runs, Task, run
from tools.study.training import rounded

TOLERANCES = (0.01, 0.03, 0.1, 0.3)
RATE = 1e-3
"""Of Adam, in the fine-tuning of gamma and beta."""


@dataclass(frozen=True)
class Price:
    """A trained model, changed in one way."""

    task: str
    seed: int
    change: str
    rows: int
    """Of statistics or of the fold that are left."""
    value: float
    """The test's metric."""
    tuned: float | None
    """After one epoch in which gamma and beta alone were trained; None where nothing is left to
    train, because the change is in the fold."""


def cell_dropped(model: Model) -> None:
    """Leave out the cell's normalization: h = o * tanh(c)."""
    model.rnn.register_module("cell_norm_l0", None)


def cell_frozen(model: Model) -> None:
    """Give all timesteps the mean over time of the cell's statistics."""
    norm = model.rnn.cell_norm_l0
    assert isinstance(norm, StepwiseBatchNorm)
    for statistics in (norm.running_mean, norm.running_var):
        statistics.copy_(statistics.mean(0).expand_as(statistics))


def all_frozen(model: Model) -> None:
    """Give all timesteps the mean over time of the statistics of all three."""
    for norm in model.modules():
        if isinstance(norm, StepwiseBatchNorm):
            for statistics in (norm.running_mean, norm.running_var):
                statistics.copy_(statistics.mean(0).expand_as(statistics))


CHANGES: dict[str, Callable[[Model], None]] = {
    "as trained": lambda model: None,
    "cell dropped": cell_dropped,
    "cell frozen to one row": cell_frozen,
    "all frozen to one row": all_frozen,
}


def prices(task: Task, seed: int, weights: dict[str, Tensor]) -> Iterator[dict[str, object]]:
    """Change a trained BN-LSTM in each way; yield the lines for a results file."""
    torch.set_num_threads(1)
    trained = task.model(Experiment(task.name, seed=seed))
    trained.load_state_dict(weights)
    for change, apply in CHANGES.items():
        model = copy.deepcopy(trained).eval()
        with torch.no_grad():
            apply(model)
        value = task.measure(model, "test")
        _tune(model, task, seed)
        tuned = task.measure(model, "test")
        rows = 1 if "one row" in change else task.sizes.length
        yield _line(Price(task.name, seed, change, rows, value, tuned))
    for tolerance in TOLERANCES:
        value, rows = _merged(trained.eval(), task, tolerance)
        yield _line(Price(task.name, seed, f"merged within {tolerance:g}", rows, value, None))


def _line(price: Price) -> dict[str, object]:
    values = [value for value in (price.value, price.tuned) if value is not None]
    names = ("value", "tuned")[: len(values)]
    return asdict(price) | dict(zip(names, rounded(values), strict=True))


def _tune(model: Model, task: Task, seed: int) -> None:
    """Train gamma and beta for one epoch, with the population statistics as they are."""
    norms = [module for module in model.modules() if isinstance(module, StepwiseBatchNorm)]
    optimizer = torch.optim.Adam((p for norm in norms for p in norm.parameters()), lr=RATE)
    for output, y in run(model.eval(), task.train(torch.Generator().manual_seed(seed + 99))):
        optimizer.zero_grad()
        task.loss(output, y).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def _merged(model: Model, task: Task, tolerance: float) -> tuple[float, int]:
    """Return the metric of the exported file, and the rows that it has."""
    rnn = model.rnn
    assert isinstance(rnn, BNLSTM)
    rows = len(merge(fold(rnn).layers[0][0], tolerance).bias)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(rnn, path, merge_tolerance=tolerance)
        session = Session(path, intra_op_num_threads=1)

        layers = deployed(session)

        def exported(x: Tensor, state: State | None, step: int) -> tuple[Tensor, State]:
            output, state = layers(x, state, step)
            return model.head(output if model.every else output[:, -1]), state

        return task.measure(exported, "test"), rows


def deployed(session: Session) -> Runs:
    """Return a file's own way to run, as a task takes it."""

    def run_chunk(x: Tensor, state: State | None, step: int) -> tuple[Tensor, State]:
        feeds: dict[str, Array] = {"input": x.numpy(), "start_step": np.full(len(x), step)}
        if state is not None:
            feeds |= {"initial_h": state[0].numpy(), "initial_c": state[1].numpy()}
        found = {name: torch.from_numpy(y) for name, y in session.run(feeds).items()}
        return found["output"], (found["h_n"], found["c_n"])

    return run_chunk
