"""bnlstm-deploy convert."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bnlstm_deploy.atomic import check_writable, replacing
from bnlstm_deploy.choices import Activations, Dtype, Folding, Form, StateInputs, Target, Weights
from bnlstm_deploy.cli.console import make_console
from bnlstm_deploy.cli.load import load
from bnlstm_deploy.cli.options import (
    Budget,
    Force,
    JsonReport,
    OptionalCheckpoint,
    OwnModel,
    Reading,
)
from bnlstm_deploy.errors import InputError

if TYPE_CHECKING:
    from bnlstm_deploy.checkpoint import Imported
    from bnlstm_deploy.metadata import Metadata
    from bnlstm_deploy.nn import BNLSTM, BNLSTMModel


ORT_FILES = (".ort", ".required_operators_and_types.config")
"""The ends of the names of what --ort adds."""

DRY_SECONDS = 0.3
"""For measuring what a timestep costs."""


def convert(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="MODEL.onnx", help="File to write.")
    ],
    reading: Reading,
    own: OwnModel,
    checkpoint: OptionalCheckpoint = None,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check",
            metavar="RECORDED.npz",
            help="Compare with x and output, as the source computed them, before anything else.",
        ),
    ] = None,
    check_states: Annotated[
        bool,
        typer.Option(
            "--check-states/--no-check-states",
            help="Compare the final states of the recording, too, or its output alone.",
        ),
    ] = True,
    form: Annotated[
        Form, typer.Option(help="Of the recurrence; auto is the fastest exact one for the target.")
    ] = "auto",
    folding: Annotated[
        Folding, typer.Option(help="Scales apart from the weights, or weights for every timestep.")
    ] = "auto",
    target: Annotated[
        Target, typer.Option(help="Where the graph is to be fast; it runs on all.")
    ] = "cpu",
    length: Annotated[
        list[int] | None,
        typer.Option(
            metavar="T",
            help="Timesteps, if all sequences have as many. The form unrolled needs it. Several, "
            "by repeating it, give a file for each: MODEL-T64.onnx.",
        ),
    ] = None,
    merge_tolerance: Annotated[
        float,
        typer.Option(
            help="Merge timesteps whose folded values differ by no more. Changes the outputs; by "
            "how much is measured and printed, and bounded by --budget.",
            min=0,
        ),
    ] = 0.0,
    weights: Annotated[
        Weights | None,
        typer.Option(
            help="Store weights so, rounded to the nearest; all else stays float32. Changes the "
            "outputs; by how much is measured and printed, and bounded by --budget.",
            show_default="as --dtype",
        ),
    ] = None,
    activations: Annotated[
        Activations | None,
        typer.Option(
            help="With --weights int8: round h before the hidden product, which CPUs with "
            "instructions for int8 compute faster. Changes the outputs further.",
            show_default="not",
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="X.npz",
            help="With --weights int8: sequences, as the array input or x, and lengths, if they "
            "have any, or the arguments of a model of your own; weights are rounded so that "
            "products with these change least.",
        ),
    ] = None,
    inline: Annotated[
        bool,
        typer.Option(
            "--inline", help="Write no functions, for engines that know none (docs/engines.md)."
        ),
    ] = False,
    ort: Annotated[
        bool,
        typer.Option(
            "--ort",
            help="Also write MODEL.ort, for minimal builds of ONNX Runtime, and the list of the "
            "operators that such a build needs (docs/engines.md).",
        ),
    ] = False,
    state: Annotated[
        StateInputs,
        typer.Option(
            help="Whether initial states, lengths and start steps are inputs that must be there, "
            "for JavaScript and for tools that freeze optional ones (docs/engines.md)."
        ),
    ] = "optional",
    dtype: Annotated[Dtype, typer.Option(help="Of weights and activations.")] = "float32",
    opset: Annotated[int, typer.Option(help="ONNX opset, 18 to 23.")] = 20,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Check the graph before it is kept.")
    ] = True,
    budget: Budget = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Make the file, say what it is and what a timestep costs here, and throw it away.",
        ),
    ] = False,
    json_report: JsonReport = None,
    force: Force = False,
) -> None:
    """Fold a checkpoint and export it to ONNX.

    Checkpoints of other BN-LSTM code are recognized by their keys (bnlstm-deploy layouts lists
    which), and what no key tells is printed. --check compares the model with recorded outputs of
    the source; --model exports a whole model of your own.

    The file appears under its name only if the equivalence check passes; if it fails, there is no
    file and the exit status is 1.

    Example: bnlstm-deploy convert models/permuted-digits -o digits.onnx
    """
    from bnlstm_deploy.exporting import export  # first, for it says which extra is missing

    import torch  # isort: skip

    from bnlstm_deploy.cli.sequences import minibatches
    from bnlstm_deploy.cli.verify import run_check, show
    from bnlstm_deploy.verification import record

    if budget is not None and not verify:
        raise InputError("--budget is what the check is held to; pass it without --no-verify")
    console = make_console()
    files = _files(output, length or [])
    beside = [path.with_suffix(suffix) for path in files for suffix in ORT_FILES if ort]
    for path in (*files, *beside):
        inputs = (checkpoint, check, calibrate, *reading.files, own.inputs)
        check_writable(path, force=force or dry_run, inputs=inputs)
    if json_report is not None:
        check_writable(json_report, force=True, inputs=(checkpoint, *files))
    facts: list[dict[str, Any]] = []
    if calibrate is not None and weights != "int8":
        raise InputError("--calibrate is for --weights int8; pass that, too, or leave it out")
    loaded = load(console, checkpoint, reading, own)
    if check is not None:
        _check_recording(console, loaded.model, loaded.imported, check, states=check_states)
    for path, time in files.items():
        with _nowhere() if dry_run else replacing(path, force=force) as temporary:
            batches = None
            if calibrate is not None:
                known = reading.batch_first is not None
                batches = minibatches(console, loaded, calibrate, axes_are_known=known)
            with contextlib.nullcontext() if batches else console.status("Folding and exporting"):
                metadata = export(
                    loaded.model,
                    temporary,
                    loaded.examples,
                    dtype=getattr(torch, dtype),
                    opset=opset,
                    force=True,
                    form=form,
                    folding=folding,
                    target=target,
                    length=time,
                    merge_tolerance=merge_tolerance,
                    weights=weights,
                    activations=activations,
                    calibration=batches,
                    inline=inline,
                    state=state,
                )
            facts.append(_facts(path, temporary, metadata))
            if dry_run:
                facts[-1] |= _cost(temporary, metadata)
                _tell(console, facts[-1])
                continue
            if verify:
                # the search is for `verify`, which one runs when there is time
                report = run_check(console, loaded, temporary, search_seconds=0, budget=budget)
                show(console, report)
                if not report.passed:
                    raise typer.Exit(1)
                record(report, temporary)
            facts[-1] |= {"bytes": temporary.stat().st_size}
        console.print(
            f"Wrote {path}: {path.stat().st_size / 1e6:.2f} MB, {metadata.numbers}, "
            f"form {metadata.form}, {metadata.folding}, {metadata.steps} steps of statistics"
        )
        console.print(f"Form {metadata.form}: {metadata.reason}")
        if ort:
            from bnlstm_deploy.ort_format import write_ort

            for written in write_ort(path, force=force):
                console.print(f"Wrote {written}: {written.stat().st_size / 1e6:.2f} MB")
    if json_report is not None:
        with replacing(json_report) as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n")


@contextlib.contextmanager
def _nowhere() -> Iterator[Path]:
    """Yield a path of a file that is deleted in the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "model.onnx"


def _facts(path: Path, written: Path, metadata: "Metadata") -> dict[str, Any]:
    return {
        "file": str(path),
        "bytes": written.stat().st_size,
        "numbers": metadata.numbers,
        "form": metadata.form,
        "folding": metadata.folding,
        "reason": metadata.reason,
        "steps": metadata.steps,
        "length": metadata.length,
    }


def _cost(written: Path, metadata: "Metadata") -> dict[str, Any]:
    """Return where a file runs on this machine, and what a timestep costs there."""
    from bnlstm_deploy.cli.bench import measure
    from bnlstm_deploy.errors import RuntimeSessionError
    from bnlstm_deploy.runtime import Session

    try:
        session = Session(written, intra_op_num_threads=1)
    except RuntimeSessionError as error:
        return {"runs_here": f"no: {error}"}
    time = metadata.length or metadata.steps
    cost = measure(session, 1, time, DRY_SECONDS)["us_per_timestep"]
    where = f"on {session.providers[0]}, {session.native}"
    return {"runs_here": where, "timesteps": time, "us_per_timestep": cost}


def _tell(console: Console, facts: dict[str, Any]) -> None:
    """Print what would be written, and what it costs where this runs."""
    table = Table(title=f"would write {facts['file']}", show_header=False, show_edge=False)
    table.add_row("size", f"{facts['bytes'] / 1e6:.2f} MB")
    table.add_row("numbers", facts["numbers"])
    table.add_row("form", f"{facts['form']}, {facts['folding']}: {facts['reason']}")
    table.add_row("steps of statistics", str(facts["steps"]))
    table.add_row("runs here", facts["runs_here"])
    if "us_per_timestep" in facts:
        cost = f"{facts['us_per_timestep']:.1f} us, of one stream over {facts['timesteps']}"
        table.add_row("a timestep", f"{cost}, on one thread")
    console.print(table)
    console.print("Nothing was written.")


def _files(output: Path, lengths: list[int]) -> dict[Path, int | None]:
    """Return the files to write, and the number of timesteps that each is for.

    Raises:
        InputError: A number of timesteps is there twice.
    """
    if len(set(lengths)) != len(lengths):
        raise InputError(f"--length is given as {lengths}; pass each number of timesteps once")
    if len(lengths) < 2:
        return {output: lengths[0] if lengths else None}
    return {output.with_stem(f"{output.stem}-T{time}"): time for time in sorted(lengths)}


def _check_recording(
    console: Console, model: object, imported: "Imported | None", path: Path, *, states: bool
) -> None:
    """Compare the model with what its source recorded; leave with 1 if they differ."""
    from bnlstm_deploy.checkpoint import compare_recording, read_recording
    from bnlstm_deploy.nn import BNLSTM, BNLSTMModel

    if not isinstance(model, BNLSTM | BNLSTMModel):
        raise InputError("--check cannot be used with --model; compare its outputs in Python")
    recording = read_recording(path)
    with console.status("Comparing with the recording"):
        agreement = compare_recording(model, recording, states=states)
    if agreement.holds:
        console.print(f"matches {path}: {agreement}", style="green")
        return
    console.print(f"does not match {path}: {agreement}", style="red")
    if "output" not in agreement.differing:
        console.print(
            "The output agrees, so the weights are these: the source records its states otherwise. "
            "Compare the output alone by --no-check-states"
        )
    elif imported is not None:
        _explain(console, model, imported, path)
    raise typer.Exit(1)


def _explain(
    console: Console, model: "BNLSTM | BNLSTMModel", imported: "Imported", path: Path
) -> None:
    """Search for a reading of the checkpoint that meets the recording, and name it."""
    from bnlstm_deploy.checkpoint import read_recording, shipped_layouts
    from bnlstm_deploy.checkpoint.ambiguities import find_fit
    from bnlstm_deploy.nn import BNLSTMModel

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Trying other readings", total=None)
        fit = find_fit(
            imported.match,
            imported.tensors,
            read_recording(path),
            model if isinstance(model, BNLSTMModel) else None,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if fit is None:
        console.print(
            "No gate order, eps, forget bias or other known ambiguity makes it match: the "
            "checkpoint is of other weights, or the source computes something else."
        )
        return
    name = imported.layout.name
    remedy = "say so in your layout"
    if imported.layout == shipped_layouts().get(name):
        remedy = f"bnlstm-deploy layouts show {name} > mine.toml, say so in it, --layout mine.toml"
    console.print(
        f"It matches with {' and '.join(fit.reading.changes)} ({fit.agreement}). "
        f"Nothing was changed; to convert it so: {remedy}",
        style="bold",
    )
