"""The plots of a report, as SVG that takes its colours from the page around it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bnlstm_deploy.extras import require
from bnlstm_deploy.pages.svg import (
    BAD,
    FIFTH,
    FIRST,
    FOURTH,
    MUTED,
    SECOND,
    SHADE,
    SIXTH,
    THIRD,
    WIDTH,
    add_ramp,
    page_style,
    render,
)
from bnlstm_deploy.verification.judging.comparison import Curve, Scales
from bnlstm_deploy.verification.judging.cost import Cost
from bnlstm_deploy.verification.measuring.backend import Backend
from bnlstm_deploy.verification.measuring.search import WorstInput

require("matplotlib", extra="report")

from matplotlib.axes import Axes  # noqa: E402
from matplotlib.colors import LinearSegmentedColormap  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator  # noqa: E402

SERIES = (FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH)
"""Enough for two GPU providers beside a CPU's function body and three instruction sets."""

POINTS = 320
SMALL_POINTS = 80
FEATURES = 64
MARKED = 12  # lines of at most so many points get markers: a single point has no line
TINY = 1e-100  # logarithmic axes are from here to its inverse at most
DECADES = 12  # below the largest value; what is smaller is at the bottom
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Plot:
    """A drawing."""

    svg: str
    steps: int
    """Timesteps that each point stands for: it is the largest of them."""


@dataclass(frozen=True)
class Panel:
    """The errors of one output at one T."""

    curves: Sequence[Curve]
    """One a backend."""
    budget: float
    over: Mapping[Backend, int]
    """The first timestep over budget, by backend, where there is one."""
    dtype: str
    """Of the graph."""

    @property
    def time(self) -> int:
        """T."""
        return self.curves[0].time


def plot_errors(panel: Panel) -> Plot:
    """Draw errors over timesteps, and below them relative errors."""
    with page_style(f"errors {panel.curves[0].value}"):
        figure = Figure(figsize=(WIDTH, 4.3))
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        _draw_errors(top, panel, POINTS)
        top.set_ylabel("absolute error")
        for curve, color in zip(panel.curves, SERIES, strict=False):
            _line(bottom, curve.relative_l2, POINTS, color=color, linewidth=1.3)
        _log_axis(bottom, [c.relative_l2 for c in panel.curves], ticks=4)
        bottom.set_ylabel("relative L2")
        bottom.set_xlabel("timestep")
        _time_axis(bottom, panel.time)
        handles, labels = top.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), loc="outside upper left", ncols=4)
        return Plot(render(figure), _bin_size(panel.time, POINTS))


def plot_lengths(panels: Sequence[Panel]) -> Plot:
    """Draw the same of several T, small and without relative errors."""
    rows = -(-len(panels) // 3)
    with page_style(f"lengths {panels[0].curves[0].value}"):
        figure = Figure(figsize=(WIDTH, 1.7 * rows))
        axes = figure.subplots(rows, 3, squeeze=False).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            _draw_errors(axis, panel, SMALL_POINTS)
            axis.set_title(f"T = {panel.time}")
            _time_axis(axis, panel.time, ticks=4)
        for axis in axes[len(panels) :]:
            axis.remove()
        return Plot(render(figure), _bin_size(max(p.time for p in panels), SMALL_POINTS))


def plot_costs(costs: Sequence[Cost], limit: float | None) -> Plot:
    """Draw what changes on purpose cost an output over timesteps, on each kind of inputs."""
    with page_style(f"costs {costs[0].value}"):
        figure = Figure(figsize=(WIDTH, 2.8))
        axis = figure.subplots()
        for found, color in zip(costs, SERIES, strict=False):
            of = f"{found.inputs} inputs" if found.inputs != "data" else "your data"
            _line(axis, found.largest, POINTS, label=f"{of}: largest", color=color, linewidth=1.5)
            _line(axis, found.mean, POINTS, label=f"{of}: mean", color=color, linewidth=0.8)
        drawn = [part for found in costs for part in (found.largest, found.mean)]
        if limit:
            axis.axhline(limit, color=BAD, linewidth=1.1, linestyle=(0, (6, 3)), label="allowed")
            drawn.append((limit,))
        _log_axis(axis, drawn)
        axis.set_ylabel("absolute error")
        axis.set_xlabel("timestep")
        time = max(found.time for found in costs)
        _time_axis(axis, time)
        figure.legend(loc="outside upper left", ncols=4)
        return Plot(render(figure), _bin_size(time, POINTS))


def plot_scales(scales: Sequence[Scales]) -> Plot:
    """Draw the largest folded scales of each layer and direction over the steps."""
    columns = min(len(scales), 2)
    rows = -(-len(scales) // columns)
    with page_style("scales"):
        figure = Figure(figsize=(WIDTH, 0.4 + 2.1 * rows))
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for axis, entry in zip(axes, scales, strict=False):
            _line(axis, entry.input, POINTS, label="input", color=FIRST)
            _line(axis, entry.hidden, POINTS, label="hidden", color=SECOND)
            _line(axis, entry.cell, POINTS, label="cell", color=THIRD)
            axis.set_title(entry.name)
            axis.set_xlabel("step")
            axis.grid(axis="y")
            _time_axis(axis, len(entry.input))
        _log_axis(axes[0], [part for s in scales for part in (s.input, s.hidden, s.cell)])
        for axis in axes[len(scales) :]:
            axis.remove()
        figure.legend(handles=list(axes[0].lines), loc="outside upper left", ncols=3)
        return Plot(render(figure), _bin_size(max(len(s.input) for s in scales), POINTS))


def plot_stream(worst: WorstInput) -> Plot:
    """Draw a stream over time: lines, or a heat map if it has many features."""
    values = _binned(worst.stream, POINTS, by_magnitude=True)
    time, features = len(worst.stream), values.shape[1]
    few = features <= len(SERIES)
    with page_style("stream"):
        figure = Figure(figsize=(WIDTH, 2.2 if few else 2.8))
        axis = figure.subplots()
        if few:
            for feature, color in zip(values.T, SERIES, strict=False):
                axis.plot(_positions(time, POINTS), feature, ".-", linewidth=1.1, color=color)
            axis.grid(axis="y")
        else:
            cells = _binned(values.T, FEATURES, by_magnitude=True)
            _draw_map(axis, cells, (-0.5, time - 0.5, features - 0.5, -0.5))
        rows = f", {_bin_size(features, FEATURES)} a row"
        axis.set_ylabel(worst.name if few else f"features of {worst.name}{rows}")
        axis.set_xlabel("timestep")
        _time_axis(axis, time)
        return Plot(render(figure), _bin_size(time, POINTS))


def _draw_map(
    axis: Axes, cells: NDArray[np.float64], extent: tuple[float, float, float, float]
) -> None:
    limit = float(np.max(np.abs(cells[np.isfinite(cells)]), initial=0)) or 1.0
    # Transparent at 0, so that it lies well on a light page and on a dark one
    colors = [(0.12, 0.42, 0.80, 1), (0.12, 0.42, 0.80, 0), (0.85, 0.40, 0.05, 0)]
    gradient = list(zip((0, 0.5, 0.5, 1), [*colors, (0.85, 0.40, 0.05, 1)], strict=True))
    colormap = LinearSegmentedColormap.from_list("signed", gradient)
    options: dict[str, Any] = {"aspect": "auto", "interpolation": "none", "cmap": colormap}
    image = axis.imshow(cells, vmin=-limit, vmax=limit, extent=extent, **options)
    axis.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    add_ramp(image, ticks=5)


def _draw_errors(axis: Axes, panel: Panel, points: int) -> None:
    yardstick = reduce(Curve.merged, panel.curves)  # a graph that crashed has fewer cases
    own, fold = yardstick.own_error, yardstick.fold_error
    drawn = [own, fold, yardstick.activation_error]
    shade: dict[str, Any] = {
        "color": SHADE,
        "linewidth": 0,
        "label": f"training model in {panel.dtype}",
    }
    axis.fill_between(_positions(len(own), points), _binned(own, points), TINY, **shade)
    _line(axis, own, points, color=MUTED, linewidth=0.8)
    _line(axis, fold, points, label=f"fold in numpy, {panel.dtype}", color=MUTED, linestyle="--")
    _line(axis, drawn[-1], points, label="sensitivity", color=MUTED, linestyle=":")
    for curve, color in zip(panel.curves, SERIES, strict=False):
        name = f"file on {curve.backend}" if curve.provider else "file"
        _line(axis, curve.p99, points, label=f"{name}: 99 %", color=color, linewidth=0.7)
        _line(axis, curve.error, points, label=f"{name}: largest", color=color, linewidth=1.5)
        drawn += [curve.error, curve.p99]
        wrong = ~np.isfinite(_binned(curve.error, points))
        if wrong.any():
            where = _positions(panel.time, points)[wrong]
            top = axis.get_xaxis_transform()
            axis.plot(where, [0.97] * where.size, "x", color=BAD, transform=top, label="not finite")
        step = panel.over.get(curve.backend)
        if step is not None:
            axis.axvline(step, color=BAD, linewidth=0.8, label="first over budget")
            axis.plot(step, curve.error[step], "o", color=BAD, markersize=4)
    if math.isfinite(panel.budget) and panel.budget > 0:
        axis.axhline(panel.budget, color=BAD, linewidth=1.1, linestyle=(0, (6, 3)), label="budget")
        drawn.append((panel.budget,))
    _log_axis(axis, drawn)


def _line(axis: Axes, values: ArrayLike, points: int, **options: Any) -> None:  # noqa: ANN401
    binned = _binned(values, points)
    if binned.size <= MARKED:
        options |= {"marker": "o", "markersize": 2.5}
    finite = np.where(np.isfinite(binned), binned, np.nan)
    axis.plot(_positions(np.size(values), points), finite, **{"linewidth": 1.1} | options)


def _bin_size(length: int, most: int) -> int:
    return max(1, -(-length // most))


def _positions(length: int, most: int) -> NDArray[np.float64]:
    """Return the middle of each bin."""
    size = _bin_size(length, most)
    return np.arange(0.0, length, size) + (size - 1) / 2


def _binned(values: ArrayLike, most: int, *, by_magnitude: bool = False) -> NDArray[np.float64]:
    """Return the largest of each bin along the first axis: NaN, if there is one."""
    array = np.asarray(values, np.float64)
    size = _bin_size(len(array), most)
    padding = [(0, -len(array) % size)] + [(0, 0)] * (array.ndim - 1)
    bins = np.pad(array, padding, mode="edge").reshape(-1, size, *array.shape[1:])
    chosen = (np.abs(bins) if by_magnitude else bins).argmax(axis=1)[:, None]
    largest: NDArray[np.float64] = np.take_along_axis(bins, chosen, axis=1)[:, 0]
    return largest


def _time_axis(axis: Axes, time: int, ticks: int = 10) -> None:
    margin = 0.5 + 0.01 * time
    axis.set_xlim(-margin, max(time, 1) - 1 + margin)
    axis.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, min_n_ticks=1))


def _log_axis(axis: Axes, drawn: Sequence[Sequence[float]], ticks: int = 6) -> None:
    """Make the y axis logarithmic; zeros are at its bottom."""
    values = np.concatenate([np.asarray(entry, np.float64) for entry in drawn])
    values = values[np.isfinite(values) & (values > 0)].clip(TINY, 1 / TINY)
    high = float(values.max(initial=0)) or 1.0
    low = max(float(values.min(initial=high)), high * 10.0**-DECADES)
    axis.set_ylim(10 ** np.floor(np.log10(low / 1.2)), high * 2.5)  # at least one tick
    axis.set_yscale("log", nonpositive="clip")
    axis.yaxis.set_major_locator(LogLocator(numticks=ticks))
    axis.yaxis.set_major_formatter(
        FuncFormatter(lambda y, _: f"10{f'{np.log10(y):.0f}'.translate(SUPERSCRIPTS)}")
    )
    axis.minorticks_off()
    axis.grid(axis="y")
