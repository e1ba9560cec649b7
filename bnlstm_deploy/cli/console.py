"""The console: what it prints are names of files and numbers, in which no sign means a style."""

from rich.console import Console


def make_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console that prints text as it is; styles are given as arguments.

    Args:
        stderr: Whether it prints to standard error.
        quiet: Whether it prints nothing.
    """
    return Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)
