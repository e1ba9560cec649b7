"""What the site adds to the pages of docs/: the public names' docstrings, and a gallery of layouts.

mkdocs calls these functions by their names (mkdocs.yml, `hooks`).
"""

import importlib
import inspect
import re
from collections.abc import Iterator

from bnlstm_deploy.checkpoint import Layout, shipped_layouts

ROOM = re.compile(r"^## `(?P<room>bnlstm_deploy[\w.]*)`$", re.MULTILINE)
NAME = re.compile(r"^\| `(?P<name>\w+)` \|", re.MULTILINE)
OUTSIDE = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\(\.\./[^)]*\)")
"""A link to a file of the repository that is no page of the site."""

EMPTY = re.compile(r"<th(?P<attributes>[^>]*)></th>")


def on_page_markdown(markdown: str, page: object, config: object, files: object) -> str:
    """Return a page's text as the site has it."""
    del config, files
    source = page.file.src_uri  # type: ignore[attr-defined]
    markdown = OUTSIDE.sub(r"`\g<text>`", markdown)
    if source == "api.md":
        markdown += "\n".join(references(markdown))
    if source == "layouts.md":
        markdown += "\n".join(gallery())
    return markdown


def on_page_content(html: str, page: object, config: object, files: object) -> str:
    """Return a page whose tables have no header cells of nothing, which are read aloud."""
    del page, config, files
    return EMPTY.sub(r"<td\g<attributes>></td>", html)


def references(page: str) -> Iterator[str]:
    """Yield what has mkdocstrings print the docstring of each name in the tables of docs/api.md."""
    _, *parts = ROOM.split(page)
    seen = set()
    for room, text in zip(parts[::2], parts[1::2], strict=True):
        yield f"\n## Reference of {room}\n"
        for name in NAME.findall(text):
            path = _canonical(room, name)
            if path is not None and path not in seen:
                seen.add(path)
                yield f"::: {path}\n"


def _canonical(room: str, name: str) -> str | None:
    """Return where a class or function is defined: griffe runs nothing and sees no lazy names."""
    value = getattr(importlib.import_module(room), name)
    if not inspect.isclass(value) and not inspect.isfunction(value):
        return None
    return f"{value.__module__}.{value.__qualname__}"


def gallery() -> Iterator[str]:
    """Yield a card for each layout that is known."""
    yield '\n## All that are known\n\n<div class="grid cards" markdown>\n'
    for layout in shipped_layouts().values():
        yield from _card(layout)
    yield "\n</div>\n"


def _card(layout: Layout) -> Iterator[str]:
    normalized = [path for path, norm in layout.normalization.items() if norm.applied]
    eps = sorted({norm.eps for norm in layout.normalization.values() if norm.applied})
    yield f"-   **{layout.name}**\n"
    yield f"    {layout.title}\n"
    yield f"    gates `{layout.weights.gates}`, eps {', '.join(f'{value:g}' for value in eps)};"
    yield f"    normalizes {', '.join(normalized)}\n"
    yield f"    `bnlstm-deploy layouts show {layout.name}`\n"
