"""bnlstm-deploy verify."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from bnlstm_deploy.atomic import check_writable, replacing
from bnlstm_deploy.cli.console import make_console
from bnlstm_deploy.cli.load import Loaded, load
from bnlstm_deploy.cli.options import (
    Budget,
    JsonReport,
    Native,
    OptionalCheckpoint,
    OwnModel,
    Providers,
    Reading,
    split,
)
from bnlstm_deploy.errors import InputError, VerificationError

if TYPE_CHECKING:
    from bnlstm_deploy.verification import Report

SHOWN_FAILURES = 10


def verify(
    reading: Reading,
    own: OwnModel,
    checkpoint: OptionalCheckpoint = None,
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL.onnx", help="An exported file.")
    ] = None,
    providers: Providers = "cpu",
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            metavar="X.npz",
            help="Inputs of your own, named as the graph's or x, and labels y. Repeatable.",
        ),
    ] = None,
    search_seconds: Annotated[
        float, typer.Option(help="How long to search for the worst inputs.", min=0)
    ] = 3.0,
    ratio: Annotated[
        float, typer.Option(help="Times the training model's own float32 error allowed.")
    ] = 4.0,
    budget: Budget = None,
    seed: Annotated[int, typer.Option(help="Of the random inputs.", min=0)] = 0,
    native: Native = True,
    json_report: JsonReport = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the result as a page.")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Check what a server makes of MODEL.onnx, http://HOST:PORT/v2/models/NAME: whole "
            "sequences, and streams with their state here and there. A bearer token is taken from "
            "BNLSTM_DEPLOY_TOKEN.",
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="If it fails, make a folder that reproduces it: inputs, outputs, a script.",
        ),
    ] = None,
    recheck: Annotated[
        Path | None,
        typer.Option(
            metavar="REPORT.json",
            help="Judge what an earlier --json measured by --ratio and --budget, without running "
            "anything.",
        ),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record/--no-record", help="Write a passed check into the file.")
    ] = True,
) -> None:
    """Check that an exported file computes what its checkpoint computes.

    The file itself; the fold against the training model, both in float64; then the file on each
    provider against the training model in float64, relative to the error that the training model
    itself makes in float32. On the CPU that is its function body, and the native kernel for each
    instruction set of this machine or for the one that BNLSTM_DEPLOY_NATIVE names. If it fails, the
    first failure is looked into. Exit status 1 if any stage fails.

    Example: bnlstm-deploy verify models/permuted-digits digits.onnx
    """
    console = make_console()
    for path in (html, json_report):
        if path is not None:
            inputs = (checkpoint, model, recheck, own.inputs, *reading.files, *(data or ()))
            check_writable(path, force=True, inputs=inputs)
    if html is not None:  # if an extra is missing, say so before the work and not after
        from bnlstm_deploy.verification.reporting.html import write_html
    if recheck is not None:
        report = _read_report(recheck).judged(ratio, budget)
    else:
        if model is None:
            raise InputError("MODEL.onnx is missing; pass CHECKPOINT and MODEL.onnx, or --recheck")
        if checkpoint is not None and checkpoint.suffix == ".onnx" and model.suffix != ".onnx":
            raise InputError(
                f"{checkpoint} is no checkpoint; pass CHECKPOINT first and then MODEL.onnx: "
                f"{model} {checkpoint}"
            )
        loaded = load(console, checkpoint, reading, own)
        report = run_check(
            console,
            loaded,
            model,
            providers=split(providers),
            native=native,
            data=data or (),
            search_seconds=search_seconds,
            ratio_limit=ratio,
            budget=budget,
            seed=seed,
            bundle=bundle,
            endpoint=endpoint,
        )
        if record and report.passed and endpoint is None:  # it says what the file itself computes
            from bnlstm_deploy.verification import record as write_record

            report = write_record(report, model)
    if json_report is not None:
        with replacing(json_report) as temporary:
            text = json.dumps(report.to_dict(), indent=1, allow_nan=False)
            temporary.write_text(text + "\n")
    if html is not None:
        write_html(report, html)
    show(console, report)
    if bundle is not None and bundle.exists():
        console.print(f"To reproduce it: python {bundle / 'replay.py'}")
    if not report.passed:
        raise typer.Exit(1)


def run_check(console: Console, loaded: Loaded, path: Path, **options: Any) -> "Report":  # noqa: ANN401
    """Run the check with a progress bar; the options are those of `verification.verify`."""
    from bnlstm_deploy.verification import sample_like
    from bnlstm_deploy.verification import verify as check

    model, _, examples = loaded
    sample = None if examples is None else sample_like(model, examples)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Verifying", total=None)

        def show(stage: str, done: int, total: int) -> None:
            bar.update(task, description=f"Verifying: {stage}", completed=done, total=total)

        return check(model, path, sample=sample, progress=show, **options)


def show(console: Console, report: "Report") -> None:
    """Print the largest errors of each output, the verdict of each stage, and why it failed."""
    console.print(_errors(report))
    stages = Table(show_header=False, box=None)
    stages.add_column(no_wrap=True)
    stages.add_column(no_wrap=True)
    stages.add_column(overflow="fold")
    for stage in report.stages:
        verdict = Text("passed", "green") if stage.passed else Text("failed", "bold red")
        stages.add_row(stage.name, verdict, stage.detail)
    console.print(stages)
    if report.metadata.changes:
        console.print(
            f"{report.metadata.changes} moves outputs on purpose: by up to "
            f"{report.merge_error:.1e}, extreme inputs among them. The graph is judged against the "
            "model that is so changed.",
            style="yellow",
        )
    if report.no_native:
        console.print(
            "The native kernel was not checked, the file's function body alone: "
            f"{report.no_native}.",
            style="yellow",
        )
    for words in report.not_checked:
        console.print(f"Not checked: {words}.", style="yellow")
    if report.chaotic_times:
        times = ", ".join(map(str, report.chaotic_times))
        console.print(
            f"At T = {times} the training model's own float32 output is "
            "noise, off by more than 1 %: it amplifies rounding exponentially. Float64 is not "
            "judged there.",
            style="yellow",
        )
    for failure in report.failures[:SHOWN_FAILURES]:
        where = f" on {failure.backend}" if failure.provider else ""
        console.print(
            f"{failure.value} at {failure.case}{where}: error {failure.error:.1e}, "
            f"allowed {report.budget(failure):.1e}",
            style="red",
        )
    hidden = len(report.failures) - SHOWN_FAILURES
    if hidden > 0:
        console.print(f"and {hidden} more", style="red")
    if report.diagnosis is not None:
        console.print("Diagnosis", style="bold")
        console.print(report.diagnosis["summary"])
    verdict = Text("PASSED", "bold green") if report.passed else Text("FAILED", "bold red")
    console.print(verdict)


def _errors(report: "Report") -> Table:
    """Return the largest errors of each output on each provider and kernel."""
    several = len({backend.provider for _, backend in report.largest_errors}) > 1
    table = Table(title="Exported graph against the float64 training model")
    for column in ("output", *("provider",) * several, "kernel"):
        table.add_column(column)
    for column in ("largest error", "training model's own", "ratio", "p99", "relative L2"):
        table.add_column(column, justify="right")
    for (name, backend), (error, own, p99, relative) in report.largest_errors.items():
        ratio = f"{error / own:.2f}" if own > 0 else "-"
        where = backend if several else backend[1:]
        table.add_row(
            name, *where, f"{error:.1e}", f"{own:.1e}", ratio, f"{p99:.1e}", f"{relative:.1e}"
        )
    return table


def _read_report(path: Path) -> "Report":
    from bnlstm_deploy.verification import Report

    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise VerificationError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise VerificationError(f"{path} holds no report; pass what verify --json wrote")
    return Report.from_dict(content)
