"""bnlstm-deploy inspect."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from bnlstm_deploy.atomic import check_writable
from bnlstm_deploy.cli.console import make_console
from bnlstm_deploy.cli.load import load
from bnlstm_deploy.cli.options import Reading
from bnlstm_deploy.errors import InputError, RuntimeSessionError

if TYPE_CHECKING:
    from bnlstm_deploy.nn import BNLSTM, StepwiseBatchNorm
    from bnlstm_deploy.runtime import Session


def inspect(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A checkpoint or an exported .onnx file.")
    ],
    reading: Reading,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE.html",
            help="Of a checkpoint: also draw its statistics over time, as heat maps by gate.",
        ),
    ] = None,
) -> None:
    """Show what a checkpoint or an exported file holds.

    For a checkpoint: its layout, its layers and, for each normalization, the health of its
    statistics: how many timesteps training never reached, the variances, and the folded scale
    gamma / sqrt(var + eps), which is the gain that the normalization applies; and what looks wrong.

    Example: bnlstm-deploy inspect models/permuted-digits
    """
    is_graph = file.suffix == ".onnx"
    if html is not None:
        if is_graph:
            raise InputError(
                f"{file} has its statistics folded, of which --html draws the means and variances; "
                "pass the checkpoint"
            )
        check_writable(html, force=True, inputs=(file,))
    facts = _graph(file) if is_graph else _checkpoint(file, reading, html)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    console = make_console()
    warnings = facts.pop("warnings", [])
    for title, content in facts.items():
        console.print(_table(title, content))
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow")


def _session(path: Path) -> "Session":
    """Open a file; one in bfloat16, which a CPU has no kernels for, as its emulation."""
    from bnlstm_deploy.runtime import Session

    try:
        return Session(path)
    except RuntimeSessionError:
        from bnlstm_deploy.verification.measuring.emulate import runnable

        with runnable(path, ("cpu",)) as copy:
            if copy == path:
                raise
            return Session(copy, native=False)


def _kernel(session: "Session") -> str:
    if session.metadata.dtype == "bfloat16":
        return "none: a CPU has no kernels for bfloat16"
    return str(session.native)


def _graph(path: Path) -> dict[str, Any]:
    session = _session(path)
    metadata = asdict(session.metadata) | {"steps": session.metadata.steps}
    layers = metadata.pop("layers")
    verified = metadata.pop("verified")

    def describe(kind: str, values: tuple[Any, ...]) -> list[dict[str, str]]:
        return [
            {"": kind, "name": v.name, "dtype": str(v.dtype), "shape": _join(v.shape)}
            for v in values
        ]

    return {
        "file": {"path": str(path), "MB": round(path.stat().st_size / 1e6, 3)} | metadata,
        "on this machine": {"kernel": _kernel(session)},
        "verified": verified or {"": "not yet"},
        "recurrent layers": [entry | {"normalize": _join(entry["normalize"])} for entry in layers],
        "values": [
            *describe("input", session.inputs),
            *describe(f"{session.metadata.state} input", session.state_inputs),
            *describe("output", session.outputs),
            *describe("state output", session.state_outputs),
        ],
    }


def _checkpoint(path: Path, reading: Reading, html: Path | None) -> dict[str, Any]:
    from bnlstm_deploy.checkpoint import state_sha256
    from bnlstm_deploy.folding.health import warnings
    from bnlstm_deploy.nn import BNLSTM, BNLSTMModel

    model, imported, _ = load(make_console(quiet=True), path, reading)
    assert isinstance(model, BNLSTM | BNLSTMModel)
    rnn = model.rnn if isinstance(model, BNLSTMModel) else model
    head = f"{model.head}, {model.pooling}" if isinstance(model, BNLSTMModel) else "none"
    facts: dict[str, Any] = {
        "checkpoint": {
            "path": str(path),
            "layout": "native" if imported is None else imported.layout.name,
            "notes": "-" if imported is None else "; ".join(imported.notes[1:]) or "-",
            "assumed": "-" if imported is None else "; ".join(imported.assumptions),
            "sha256": state_sha256(model),
            "parameters": sum(p.numel() for p in model.parameters()),
            "dtype": str(rnn.weight_ih_l0.dtype).removeprefix("torch."),
            "input size": rnn.input_size,
            "hidden size": rnn.hidden_size,
            "layers": rnn.num_layers,
            "directions": rnn.num_directions,
            "batch first": rnn.batch_first,
            "normalize": _join(rnn.normalize),
            "initial state": "0" if rnn.h_0 is None else "learned",
            "steps of statistics": rnn.max_length,
            "eps": rnn.eps,
            "head": head,
        },
        "statistics": _statistics(rnn),
        "warnings": warnings(rnn),
    }
    if html is not None:
        from bnlstm_deploy.pages.document import Content, write_page
        from bnlstm_deploy.pages.heat_maps import draw_statistics

        lead = (
            f"{_join(rnn.normalize)} normalized, {rnn.num_layers} layers of {rnn.hidden_size}, "
            f"statistics of {rnn.max_length} timesteps."
        )
        figures = list(draw_statistics(rnn))
        known = facts["checkpoint"]
        write_page(Content(f"Statistics of {path}", lead, figures, known, facts["warnings"]), html)
    return facts


def _statistics(rnn: "BNLSTM") -> list[dict[str, Any]]:
    rows = []
    for _, suffix in rnn.directions():
        for path, norm in rnn.norms(suffix)._asdict().items():
            if norm is not None:
                rows.append({"norm": f"{path}_norm{suffix}"} | _health(norm))
    return rows


def _health(norm: "StepwiseBatchNorm") -> dict[str, Any]:
    from bnlstm_deploy.folding.health import marks

    scale, unseen, *_ = marks(norm)
    var = norm.running_var
    step = int(scale.max(axis=1).argmax())
    return {
        "unseen": f"{int(unseen.sum())}/{len(scale)}",
        "min var": f"{var.min():.1e}",
        "max var": f"{var.max():.1e}",
        "max scale": f"{scale.max():.3g}",
        "at step": step,
        "after step 0": f"{scale[1:].max():.3g}" if len(scale) > 1 else "-",
    }


def _table(title: str, content: dict[str, Any] | list[dict[str, Any]]) -> Table:
    if isinstance(content, dict):
        table = Table(title=title, show_header=False, title_justify="left")
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in content.items():
            table.add_row(name, str(value))
        return table
    table = Table(title=title, title_justify="left")
    for name in content[0] if content else ():
        table.add_column(name, overflow="fold", no_wrap=name == "norm")
    for row in content:
        table.add_row(*(str(value) for value in row.values()))
    return table


def _join(values: tuple[Any, ...] | list[Any]) -> str:
    return ", ".join(map(str, values))
