"""bnlstm-deploy verify."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bnlstm_deploy.atomic import replacing
from bnlstm_deploy.cli.options import Checkpoint, Config, JsonReport, Model, Providers, split

if TYPE_CHECKING:
    from torch import nn

    from bnlstm_deploy.verify import Report

SHOWN_FAILURES = 10


def verify(
    checkpoint: Checkpoint,
    model: Model,
    config: Config = None,
    providers: Providers = "cpu",
    ratio: Annotated[
        float, typer.Option(help="Times the training model's own float32 error allowed.")
    ] = 4.0,
    seed: Annotated[int, typer.Option(help="Of the random inputs.")] = 0,
    json_report: JsonReport = None,
) -> None:
    """Check that an exported file computes what its checkpoint computes.

    First the fold against the training model, both in float64; then the file on ONNX Runtime
    against the training model in float64, relative to the error that the training model itself
    makes in float32. Exit status 1 if either fails.

    Example: bnlstm-deploy verify models/permuted-digits digits.onnx
    """
    from bnlstm_deploy.checkpoint import load_checkpoint

    console = Console()
    with console.status("Loading the checkpoint"):
        training_model = load_checkpoint(checkpoint, config=config)
    report = run_check(
        console,
        training_model,
        model,
        providers=split(providers),
        ratio_limit=ratio,
        seed=seed,
    )
    if json_report is not None:
        with replacing(json_report) as temporary:
            temporary.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    show(console, report)
    if not report.passed:
        raise typer.Exit(1)


def run_check(
    console: Console,
    model: "nn.Module",
    path: Path,
    *,
    providers: Sequence[str] = ("cpu",),
    ratio_limit: float = 4.0,
    seed: int = 0,
) -> "Report":
    """Run the check with a progress bar."""
    from bnlstm_deploy.verify import verify as check

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Verifying", total=None)
        return check(
            model,
            path,
            providers=providers,
            ratio_limit=ratio_limit,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def show(console: Console, report: "Report") -> None:
    """Print the largest errors of each output, and the verdict."""
    table = Table(title="Exported graph against the float64 training model")
    table.add_column("output")
    for column in ("largest error", "training model's own", "ratio"):
        table.add_column(column, justify="right")
    for name in dict.fromkeys(c.value for c in report.precision):
        error = max(c.error for c in report.precision if c.value == name)
        own = max(c.own_error for c in report.precision if c.value == name)
        ratio = f"{error / own:.2f}" if own > 0 else "-"
        table.add_row(name, f"{error:.1e}", f"{own:.1e}", ratio)
    console.print(table)
    console.print(
        f"Algebra: fold in float64 off by {report.algebra_error:.1e} relative. "
        f"{len({c.case for c in report.precision})} cases."
    )
    chaotic = sorted({c.time for c in report.precision if report.chaotic(c)})
    if chaotic:
        console.print(
            f"[yellow]At T = {', '.join(map(str, chaotic))} the training model's own float32 "
            "output is noise, off by more than 1 %: it amplifies rounding exponentially. Float64 "
            "is not judged there.[/yellow]"
        )
    if report.metadata.checkpoint_sha256 != report.checkpoint_sha256:
        console.print(
            "[yellow]The file was exported from other weights than this checkpoint holds "
            "(bnlstm.checkpoint_sha256 differs).[/yellow]"
        )
    for failure in report.failures[:SHOWN_FAILURES]:
        console.print(
            f"[red]{failure.value} at {failure.case}: error {failure.error:.1e}, "
            f"allowed {report.budget(failure):.1e}[/red]"
        )
    hidden = len(report.failures) - SHOWN_FAILURES
    if hidden > 0:
        console.print(f"[red]and {hidden} more[/red]")
    console.print("[bold green]PASSED" if report.passed else "[bold red]FAILED")
