"""bnlstm-deploy convert."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bnlstm_deploy.atomic import replacing
from bnlstm_deploy.cli.options import Checkpoint, Config, Force


class Dtype(StrEnum):
    """Dtypes of exported graphs."""

    float32 = "float32"
    float64 = "float64"


def convert(
    checkpoint: Checkpoint,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="MODEL.onnx", help="File to write.", show_default=False
        ),
    ],
    config: Config = None,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and activations.")] = Dtype.float32,
    opset: Annotated[int, typer.Option(help="ONNX opset, 18 to 23.")] = 20,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Check the graph before it is kept.")
    ] = True,
    force: Force = False,
) -> None:
    """Fold a checkpoint and export it to ONNX.

    The file appears under its name only if the equivalence check passes; if it fails, there is no
    file and the exit status is 1.

    Example: bnlstm-deploy convert models/permuted-digits -o digits.onnx
    """
    from bnlstm_deploy.checkpoint import load_checkpoint
    from bnlstm_deploy.cli.verify import run_check, show
    from bnlstm_deploy.export import export
    from bnlstm_deploy.export.model import DTYPES, check_destination

    console = Console()
    dtypes = {str(known).removeprefix("torch."): known for known in DTYPES}
    check_destination(output, force=force)
    with console.status("Loading the checkpoint"):
        model = load_checkpoint(checkpoint, config=config)
    with replacing(output) as temporary:
        with console.status("Folding and exporting"):
            metadata = export(model, temporary, dtype=dtypes[dtype], opset=opset, force=True)
        if verify:
            report = run_check(console, model, temporary)
            show(console, report)
            if not report.passed:
                raise typer.Exit(1)
    console.print(
        f"Wrote [bold]{output}[/bold]: {output.stat().st_size / 1e6:.2f} MB, {metadata.dtype}, "
        f"form {metadata.form}, {metadata.folding}, {metadata.steps} steps of statistics"
    )
