"""bnlstm-deploy layouts."""

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
def list_layouts(context: typer.Context) -> None:
    """List the known layouts of checkpoints, or show one of them."""
    if context.invoked_subcommand is not None:
        return
    from bnlstm_deploy.checkpoint import shipped_layouts

    table = Table(show_edge=False)
    for column in ("layout", "also", "checkpoints of", "gates", "eps"):
        table.add_column(column, overflow="fold")
    for layout in shipped_layouts().values():
        eps = sorted({norm.eps for norm in layout.normalization.values() if norm.applied})
        table.add_row(
            layout.name,
            ", ".join(layout.aliases),
            layout.title,
            layout.weights.gates,
            ", ".join(f"{value:g}" for value in eps),
        )
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
