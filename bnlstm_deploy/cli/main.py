"""The entry point: the commands, and how errors become exit statuses."""

import sys

import typer

from bnlstm_deploy.cli.bench import bench
from bnlstm_deploy.cli.console import make_console
from bnlstm_deploy.cli.convert import convert
from bnlstm_deploy.cli.deploy import deploy
from bnlstm_deploy.cli.doctor import doctor
from bnlstm_deploy.cli.inspect import inspect
from bnlstm_deploy.cli.layouts import layouts
from bnlstm_deploy.cli.options import grouped
from bnlstm_deploy.cli.recalibrate import recalibrate
from bnlstm_deploy.cli.run import run
from bnlstm_deploy.cli.serve import serve
from bnlstm_deploy.cli.verify import verify
from bnlstm_deploy.errors import BnlstmError
from bnlstm_deploy.version import __version__

BAD_INPUT = 2

app = typer.Typer(
    name="bnlstm-deploy",
    help="Take a trained batch-normalized LSTM to production. Exit status: 0 success, 1 a check "
    "failed, 2 bad usage or bad input.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (inspect, convert, verify, run, bench, recalibrate, serve):
    app.command(no_args_is_help=True)(grouped(command))
app.command()(doctor)
app.add_typer(layouts)
app.add_typer(deploy)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    del version


def main() -> None:
    """Run the command line; print an error of this package as one message and exit with 2."""
    try:
        app()
    except (BnlstmError, OSError) as error:
        make_console(stderr=True).print(f"error: {error}", style="bold red", soft_wrap=True)
        sys.exit(BAD_INPUT)
