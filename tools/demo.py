"""The whole path on the trained examples: convert, run on held-out data, verify, measure.

python -m tools.demo
"""

import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bnlstm_deploy.checkpoint import load
from bnlstm_deploy.cli.load import Loaded
from bnlstm_deploy.cli.verify import run_check, show
from bnlstm_deploy.exporting import export
from bnlstm_deploy.runtime import Session
from tools import digits
from tools.study.price import deployed
from tools.study.tasks import tasks

CHECKPOINT = Path("models/permuted-digits")
OUTPUT = Path("demo/permuted-digits.onnx")
MODELS = Path("models")
SECOND = ("characters", "permuted-mnist")
"""Models of the study, with their tasks' names."""
BATCH_SIZES = (1, 32)
REPEATS = 30


def main() -> None:
    """Run the demonstration; exit with 1 if the check fails."""
    console = Console()
    console.rule("Convert")
    model = load(CHECKPOINT)
    OUTPUT.parent.mkdir(exist_ok=True)
    start = time.perf_counter()
    export(model, OUTPUT, force=True)
    seconds = time.perf_counter() - start
    console.print(f"{CHECKPOINT} -> {OUTPUT} in {seconds:.1f} s")

    console.rule("Run on held-out digits")
    session = Session(OUTPUT, intra_op_num_threads=1)
    test = digits.load().test
    logits, _ = session(test.x)
    with torch.inference_mode():
        reference = model(torch.from_numpy(test.x))[0].numpy()
    correct = int((logits.argmax(1) == test.y).sum())
    agreement = int((logits.argmax(1) == reference.argmax(1)).sum())
    number = len(test.y)

    console.rule("Verify")
    report = run_check(console, Loaded(model), OUTPUT)
    show(console, report)

    console.rule("Result")
    table = Table(show_header=False)
    table.add_row("test accuracy", f"{correct / number:.1%} ({correct} of {number})")
    table.add_row("same class as the training model", f"{agreement} of {number}")
    table.add_row("largest difference of a logit", f"{np.abs(logits - reference).max():.1e}")
    table.add_row("runs as", str(session.native))
    table.add_row("file", f"{OUTPUT.stat().st_size / 1e6:.2f} MB")
    for batch in BATCH_SIZES:
        eager, deployed = measure(console, model, session, test.x[:batch])
        table.add_row(
            f"{batch} at a time, one thread",
            f"{deployed * 1e3:.2f} ms, training model {eager * 1e3:.2f} ms: "
            f"[bold]{eager / deployed:.1f} times faster[/bold]",
        )
    console.print(table)
    passed = [report.passed, *(second(console, name) for name in SECOND)]
    if not all(passed):
        raise SystemExit(1)


def second(console: Console, name: str) -> bool:
    """Convert, verify and run a model of the study; return whether the check passed."""
    console.rule(f"models/{name}")
    task, path = tasks()[name], OUTPUT.with_name(f"{name}.onnx")
    model = load(MODELS / name)
    export(model, path, force=True)
    report = run_check(console, Loaded(model), path, search_seconds=0)
    session = Session(path, intra_op_num_threads=1)

    value = task.measure(deployed(session), "test")
    console.print(
        f"check {'passed' if report.passed else 'FAILED'}; test {task.metric} {value:.3f} as "
        f"deployed; {path.stat().st_size / 1e6:.2f} MB, {session.native}"
    )
    return report.passed


def measure(
    console: Console, model: torch.nn.Module, session: Session, x: NDArray[np.float32]
) -> tuple[float, float]:
    """Return the median seconds of the training model in eager mode, and of the session.

    The two take turns, so that other work on the machine slows both alike.
    """
    torch.set_num_threads(1)
    tensor = torch.from_numpy(x)
    times: list[tuple[float, float]] = []
    with torch.inference_mode():
        for _ in track(range(REPEATS), "Measuring", console=console, transient=True):
            start = time.perf_counter()
            model(tensor)
            middle = time.perf_counter()
            session(x)
            times.append((middle - start, time.perf_counter() - middle))
    eager, deployed = np.median(times, axis=0)
    return float(eager), float(deployed)


if __name__ == "__main__":
    main()
