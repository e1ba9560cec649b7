"""Latency over batch sizes and lengths, as plots."""

from collections.abc import Iterator, Mapping, Sequence

from bnlstm_deploy.extras import require
from bnlstm_deploy.pages.document import Drawn
from bnlstm_deploy.pages.svg import FIRST, SECOND, THIRD, WIDTH, page_style, render

require("matplotlib", extra="report")

from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator  # noqa: E402

HEIGHT = 3.2
COLORS = (FIRST, SECOND, THIRD)

Row = Mapping[str, float]
"""The batch size, the length, and the median time of a run in ms."""


def draw_latency(peers: Mapping[str, Sequence[Row]]) -> Iterator[Drawn]:
    """Yield plots of the time of a run over N, for each T, and over T, for each N.

    Args:
        peers: What was measured of each peer, in order.
    """
    yield from _draw(peers, "batch_size", "length", ("streams", "timesteps"))
    yield from _draw(peers, "length", "batch_size", ("timesteps", "streams"))


def _draw(
    peers: Mapping[str, Sequence[Row]], over: str, fixed: str, words: tuple[str, str]
) -> Iterator[Drawn]:
    first, *_ = peers.values()
    if len({row[over] for row in first}) < 2:
        return  # a point is no curve: the table has it
    for size in sorted({row[fixed] for row in first}):
        title = f"{size:.0f} {words[1]}"
        with page_style(f"latency {over} {size}"):
            figure = Figure(figsize=(WIDTH, HEIGHT))
            axis = figure.subplots()
            for (name, rows), color in zip(peers.items(), COLORS, strict=False):
                points = sorted((row[over], row["median_ms"]) for row in rows if row[fixed] == size)
                axis.plot(*zip(*points, strict=True), marker="o", color=color, label=name)
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xticks(sorted({row[over] for row in first}), minor=False)
            axis.set_xticks([], minor=True)
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_minor_locator(NullLocator())
            for along in (axis.xaxis, axis.yaxis):
                along.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.grid(visible=True, axis="y")
            axis.set_xlabel(words[0])
            axis.set_ylabel("median ms of a run")
            figure.legend(loc="outside upper left", ncols=len(peers))
            svg = render(figure)
        yield Drawn(title, svg, f"Time of a run of {title} over {words[0]}: {', '.join(peers)}")
