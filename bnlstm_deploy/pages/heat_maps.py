"""A checkpoint's population statistics over time, as heat maps: means, variances, folded scales."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.extras import require
from bnlstm_deploy.folding.health import Marks, marks
from bnlstm_deploy.nn import BNLSTM, StepwiseBatchNorm
from bnlstm_deploy.pages.document import Drawn
from bnlstm_deploy.pages.svg import BAD, LINE, MUTED, WIDTH, add_ramp, page_style, render

require("matplotlib", extra="report")

from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

CELLS = 512
"""Timesteps, and features, of a map at most; of more that share a cell one is shown."""
GATES = "ifgo"

Map = NDArray[np.float64]


def draw_statistics(rnn: BNLSTM) -> Iterator[Drawn]:
    """Yield a figure for each normalization of each layer and direction.

    Raises:
        FoldError: Statistics that are negative or not finite.
    """
    for _, suffix in rnn.directions():
        for path, norm in rnn.norms(suffix)._asdict().items():
            if norm is not None:
                gates = GATES if path != "cell" else ""
                yield _draw(f"{path}_norm{suffix}", norm, marks(norm), gates)


def _draw(name: str, norm: StepwiseBatchNorm, found: Marks, gates: str) -> Drawn:
    variances = norm.running_var.double().numpy()
    positive = variances[variances > 0]
    floor = positive.min() if positive.size else norm.eps
    maps = {
        "mean": norm.running_mean.double().numpy(),
        "variance, log10": np.log10(np.maximum(variances, floor)),
        "folded scale, log10": np.log10(np.maximum(found.scale, 1e-12)),
    }
    with page_style(f"statistics {name}", **{"figure.constrained_layout.use": False}):
        figure = Figure(figsize=(WIDTH, 3.0))
        axes = figure.subplots(1, len(maps), sharey=True)
        figure.subplots_adjust(0.06, 0.15, 0.94, 0.9, wspace=0.3)
        for axis, (title, values) in zip(axes, maps.items(), strict=True):
            axis.set_title(title)
            _draw_map(axis, values, gates)
            if title != "mean":
                _draw_marks(axis, found)
            axis.set_xlabel("timestep")
        axes[0].set_ylabel("gate" if gates else "feature")
        svg = render(figure)
    unseen, wrong = int(found.unseen.sum()), int((found.decayed | found.huge).any(axis=1).sum())
    label = (
        f"{name}: mean, variance and folded scale of {variances.shape[1]} features over "
        f"{len(variances)} timesteps; {unseen} of these were never visited, {wrong} look wrong"
    )
    hint = (
        "Red: a variance of 0, or a folded scale by which rounding errors grow, a cross for a "
        "feature, a triangle for more than a quarter of them. "
        * (wrong > 0)
        + "Grey, below: timesteps that training never reached." * (unseen > 0)
    )
    return Drawn(name, svg, label, hint)


def _draw_map(axis: Axes, values: Map, gates: str) -> None:
    steps, features = values.shape
    cells = values[_spread(steps)][:, _spread(features)].T
    image = axis.imshow(
        cells,
        aspect="auto",
        interpolation="none",
        cmap="viridis",
        extent=(-0.5, steps - 0.5, features - 0.5, -0.5),
    )
    add_ramp(image, ticks=4)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if gates:
        size = features // len(gates)
        axis.set_yticks([size * (gate + 0.5) for gate in range(len(gates))], list(gates))
        for gate in range(1, len(gates)):
            axis.axhline(size * gate - 0.5, color=LINE, linewidth=0.7)


def _draw_marks(axis: Axes, found: Marks) -> None:
    wrong = found.decayed | found.huge
    many = wrong.mean(axis=1) > 0.25
    steps, features = np.nonzero(wrong & ~many[:, None])
    chosen = _spread(len(steps))
    axis.plot(steps[chosen], features[chosen], "x", color=BAD, markersize=3)
    bottom = found.scale.shape[1] - 0.5
    for y, where, marker, color in ((-0.5, many, "v", BAD), (bottom, found.unseen, "s", MUTED)):
        at = np.flatnonzero(where)
        axis.plot(at, np.full(len(at), y), marker, color=color, markersize=3, clip_on=False)
    axis.set_ylim(bottom, -0.5)


def _spread(count: int) -> NDArray[np.int64]:
    """Return the indices that are shown, of so many."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, CELLS)).astype(np.int64))
