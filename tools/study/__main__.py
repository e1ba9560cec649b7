"""Run the experiments of a task, and draw what they show.

    python -m tools.study digits
    python -m tools.study gradient-flow

A run that was interrupted goes on where it was: of each experiment that was under way, at most one
epoch is lost. When all are trained, their graphs are timed on ONNX Runtime, and of the tasks of the
ablation the trained BN-LSTMs are changed to see what the cell's normalization is worth.
"""

import os
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import track

from bnlstm_deploy.errors import BnlstmError, InputError
from tools.study import deployed, figures, gradient_flow, price
from tools.study.grid import ABLATED, experiments
from tools.study.models import Experiment
from tools.study.runner import Places, append, read, run_all
from tools.study.tasks import Task, tasks

FLOW = "gradient-flow"
NAMES = [*tasks(), FLOW]

app = typer.Typer(add_completion=False)


def study(task: Task, places: Places, *, quick: bool, processes: int) -> list[Path]:
    """Train, time, change and draw; what is in a results file is not done again."""
    grid = experiments(task.name, quick=quick)
    run_all(grid, places, quick=quick, processes=processes)
    folder = places.results.parent
    timed = folder / f"{task.name}-deployed.jsonl"
    if not read(timed):
        for line in deployed.measure(task, grid, 1, 0.1 if quick else 4.0):
            append(timed, line)
    formed = folder / f"{task.name}-forms.jsonl"
    if task.name in ABLATED and not read(formed):
        for line in deployed.by_form(task, grid, 1, 0.1 if quick else 4.0):
            append(formed, line)
    prices = folder / f"{task.name}-price.jsonl"
    done = {line["seed"] for line in read(prices)}
    seeds = {experiment.seed for experiment in grid} if task.name in ABLATED else set()
    for seed in track(sorted(seeds - done), "price"):
        file = places.folder(Experiment(task.name, seed=seed)) / "model.pt"
        if not file.exists():
            raise InputError(f"{file} is missing; delete {places.results} to train it again")
        for line in list(price.prices(task, seed, torch.load(file, weights_only=True))):
            append(prices, line)
    return figures.draw(task, folder)


def flow(folder: Path, *, quick: bool) -> list[Path]:
    """Measure the gradient's flow anew, and draw it."""
    results = folder / f"{FLOW}.jsonl"
    if not read(results):
        gammas = (0.1, 1.0) if quick else gradient_flow.GAMMAS
        flows = track(list(gradient_flow.flows(1 if quick else 3, gammas)), "flow")
        for one in flows:
            append(results, one.line())
    return figures.draw_flow(folder)


@app.command()
def main(
    task: Annotated[str, typer.Argument(help=f"One of {', '.join(NAMES)}.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny sizes, to see that it works.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of results and figures.", show_default="docs/study"),
    ] = None,
    work: Annotated[Path, typer.Option(help="Folder of states, models and scalars.")] = Path(
        "study"
    ),
    processes: Annotated[
        int, typer.Option(min=1, help="Experiments at a time.", show_default="one a core")
    ] = os.cpu_count() or 1,
) -> None:
    """Run the experiments of a task that are not done, and draw its figures."""
    folder = output or (work / "quick" / "results" if quick else Path("docs/study"))
    places = Places(folder / f"{task}.jsonl", work / ("quick" if quick else "full"))
    try:
        if task == FLOW:
            written = flow(folder, quick=quick)
        elif task in tasks():
            chosen = tasks(quick=quick)[task]
            written = study(chosen, places, quick=quick, processes=processes)
        else:
            raise InputError(f"task is {task!r}; pass one of {', '.join(NAMES)}")
    except BnlstmError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    for path in written:
        typer.echo(path)


if __name__ == "__main__":
    app()
