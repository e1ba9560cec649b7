"""Times over H and over N, all peers and the roof: SVG files beside docs/benchmark.md."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from tools.measured import Case
from tools.peers import Size

OVER_H = [Size(1, 100, 1, hidden) for hidden in (16, 32, 64, 100, 181, 256, 512, 1000)]
OVER_N = [Size(batch, 100, 1, 100) for batch in (1, 2, 4, 8, 16, 32, 64, 128)]

STYLES = {
    "native": {"color": "#1a5fc4", "linewidth": 2.5, "marker": "o"},
    "function body": {"color": "#1a5fc4", "linestyle": "--"},
    "lstm operator": {"color": "#b4540a", "marker": "s"},
    "torch lstm": {"color": "#0d7a73", "marker": "^"},
    "eager": {"color": "#8a3fb0", "linestyle": "--"},
    "unfolded": {"color": "#777777", "linestyle": "--"},
}


def draw(over_h: Sequence[Case], over_n: Sequence[Case], folder: Path) -> None:
    """Write benchmark-h.svg and benchmark-n.svg.

    Args:
        over_h: Cases that differ in H.
        over_n: Cases that differ in N.
        folder: Where.
    """
    plots: tuple[tuple[str, Sequence[Case], Callable[[Size], int], str], ...] = (
        ("h", over_h, lambda size: size.H, "hidden units H, one stream"),
        ("n", over_n, lambda size: size.N, "streams N, 100 hidden units"),
    )
    for name, cases, of, label in plots:
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axis = figure.subplots()
        xs = [of(case.size) for case in cases]
        for index, result in enumerate(cases[0].results):
            ys = [case.results[index].us_per_timestep for case in cases]
            axis.plot(xs, ys, label=result.peer, markersize=4, **STYLES[result.peer])  # type: ignore[arg-type]
        roofs = [case.roof.us_per_timestep for case in cases if case.roof is not None]
        axis.plot(xs, roofs, label="roof: caches and arithmetic", color="black", linestyle=":")
        axis.set(xscale="log", yscale="log", xlabel=label, ylabel="µs a timestep, one thread")
        axis.set_xticks(xs, [str(x) for x in xs])
        axis.minorticks_off()
        axis.grid(color="#dddddd")
        axis.legend(fontsize="small")
        with mpl.rc_context({"svg.hashsalt": "bnlstm", "svg.fonttype": "none"}):
            figure.savefig(folder / f"benchmark-{name}.svg", metadata={"Date": None})
