"""One HTML page: what it is about in a sentence, warnings, tables and figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bnlstm_deploy.atomic import replacing
from bnlstm_deploy.extras import require

require("jinja2", extra="report")

import jinja2  # noqa: E402


class Drawn(NamedTuple):
    """A figure on a page."""

    title: str
    svg: str
    label: str
    """What is to be seen, for those who do not see it."""
    hint: str = ""
    """What the eye should know."""


class Content(NamedTuple):
    """What is on a page."""

    title: str
    lead: str
    figures: Sequence[Drawn]
    facts: Mapping[str, object]
    """A table of two columns."""
    warnings: Sequence[str] = ()


def environment(package: str) -> jinja2.Environment:
    """Return an environment with the templates of a package, and the style of all pages."""
    loaders = [jinja2.PackageLoader(package), jinja2.PackageLoader("bnlstm_deploy.pages")]
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )


def write(page: str, path: Path, *, force: bool = True) -> None:
    """Write a page whole, or not at all.

    Args:
        page: The HTML.
        path: The file to write.
        force: Whether to replace one that is there.

    Raises:
        InputError: The folder does not exist, or cannot be written to.
    """
    with replacing(path, force=force) as temporary:
        # the name of a file may hold what is not Unicode
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def write_page(content: Content, path: Path) -> None:
    """Write a page of figures and facts; a file that is there is replaced.

    Raises:
        InputError: The folder does not exist, or cannot be written to.
    """
    template = environment("bnlstm_deploy.pages").get_template("page.html")
    write(template.render(content._asdict()), path)
