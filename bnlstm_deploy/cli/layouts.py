"""bnlstm-deploy layouts."""

import json
from typing import Annotated

import typer
from rich.table import Table

from bnlstm_deploy.cli.console import make_console

layouts = typer.Typer(
    name="layouts",
    help="Known layouts of checkpoints: what the keys of other BN-LSTM code mean.\n\n"
    "Example: bnlstm-deploy layouts show jihunchoi > mine.toml",
    invoke_without_command=True,
)


@layouts.callback()
def list_layouts(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """List the known layouts of checkpoints, or show one of them."""
    if context.invoked_subcommand is not None:
        return
    from bnlstm_deploy.checkpoint import shipped_layouts

    rows = [
        {
            "layout": layout.name,
            "also": layout.aliases,
            "checkpoints of": layout.title,
            "gates": layout.weights.gates,
            "eps": sorted({norm.eps for norm in layout.normalization.values() if norm.applied}),
        }
        for layout in shipped_layouts().values()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(show_edge=False)
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = (
            value if isinstance(value, str) else ", ".join(map(str, value))
            for value in row.values()
        )
        table.add_row(*cells)
    make_console().print(table)


@layouts.command("show", no_args_is_help=True)
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A layout.")],
) -> None:
    """Print a layout's TOML, to start one of your own from.

    Example: bnlstm-deploy layouts show jihunchoi > mine.toml
    """
    from bnlstm_deploy.checkpoint.parse import layout_text

    typer.echo(layout_text(name), nl=False)
