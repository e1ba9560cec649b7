"""Figures as SVG that takes its colours from the page around it."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bnlstm_deploy.extras import require

require("matplotlib", extra="report")

import matplotlib.style  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.image import AxesImage  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

COLORS = (
    *("ink", "muted", "line", "shade", "bad"),
    *("first", "second", "third", "fourth", "fifth", "sixth"),
)
"""CSS variables of the page. Plots are drawn in stand-ins, `#01010x`, that become `var(--name)`."""
INK, MUTED, LINE, SHADE, BAD, FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH = (
    f"#01010{index:x}" for index in range(len(COLORS))
)

WIDTH = 9.6  # inches; the page scales it to its own width

STYLE = {
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8,
    "figure.constrained_layout.use": True,
    "font.size": 7.5,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a $ in a name is a $
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


@contextmanager
def page_style(plot: str, **changes: object) -> Iterator[None]:
    """Draw in the style of the page, whatever the user's own settings are."""
    # ids are the page's: with a salt of its own, no plot has those of another
    styles: list[Any] = ["default", STYLE | {"svg.hashsalt": plot} | changes]
    with matplotlib.style.context(styles), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has its own fonts
        yield


def add_ramp(image: AxesImage, ticks: int) -> None:
    """Put the colours of a map beside it: `Figure.colorbar` draws shapes, with seams between."""
    low, high = image.get_clim()
    if low == high:
        low, high = low - 1, high + 1
    ramp = image.axes.inset_axes((1.02, 0, 0.02, 1))
    colors = np.linspace(high, low, 101)[:, None]
    ramp.imshow(colors, aspect="auto", cmap=image.get_cmap(), extent=(0, 1, low, high))
    ramp.set_xticks([])
    ramp.yaxis.tick_right()
    ramp.yaxis.set_major_locator(MaxNLocator(ticks))


def render(figure: Figure) -> str:
    """Return a figure that was drawn in the page's style, for the inside of the page."""
    stream = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(stream, format="svg", metadata=metadata, transparent=True)
    return _inline(stream.getvalue())


def _inline(svg: str) -> str:
    """Return an SVG for the inside of a page: its colours, its size, no ids but those in use."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'^<svg [^>]*(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg)
    svg = re.sub(
        r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path.group().strip("\n")), svg
    )
    return re.sub(r"#01010([0-9a])", lambda color: f"var(--{COLORS[int(color.group(1), 16)]})", svg)
