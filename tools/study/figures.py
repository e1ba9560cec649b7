"""The figures of docs/study.md and docs/gradient_flow.md, drawn from results files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tools.study.models import Experiment, subsets
from tools.study.runner import read
from tools.study.summary import Line, Variant, variants
from tools.study.tasks import Task

GREY, BLUE, ORANGE, GREEN = "#8a8a8a", "#0b6bb3", "#d9762b", "#2c8a57"
MARKERS = "osD^v<>PX*hp"
SUBSETS = [Experiment("", normalize).variant for normalize in subsets()]


def _save(figure: Figure, path: Path) -> None:
    # neither a date nor random ids: a figure that is drawn again is the same file
    with mpl.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def _tidy(axes: Axes) -> None:
    axes.grid(color="#e8e8e8", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _band(axes: Axes, values: list[list[float]], color: str, label: str, style: str = "-") -> None:
    """Draw the mean over seeds and the range between them, by epoch."""
    epochs = range(1, len(values) + 1)
    axes.plot(
        epochs, [sum(v) / len(v) for v in values], style, color=color, label=label, linewidth=1.2
    )
    axes.fill_between(
        epochs, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.18, lw=0
    )


def curves(task: Task, found: dict[str, Variant], path: Path) -> None:
    """Draw the validation's metric over the epochs, a panel for each subset."""
    names = [name for name in SUBSETS if name in found]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes, name in zip(panels, names, strict=False):
        if name != "lstm" and "lstm" in found:
            _band(axes, found["lstm"].curve("validation"), GREY, "LSTM")
        if name != "lstm":
            averages = found[name].curve("moving_averages")
            _band(axes, averages, ORANGE, "moving averages", ":")
        _band(axes, found[name].curve("validation"), BLUE, "recalibrated")
        axes.set_title(name, fontsize=9)
        if not task.higher_is_better:
            axes.set_yscale("log")
        _tidy(axes)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel(f"validation {task.metric}", fontsize=9)
    handles, labels = figure.axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    _save(figure, path)


def over_time(task: Task, found: dict[str, Variant], deployed: Sequence[Line], path: Path) -> None:
    """Draw the test's metric over the deployed time a timestep, on the kernel and without it."""
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    names = [name for name in found if name in {line["variant"] for line in deployed}]
    titles = {True: "native kernel", False: "ONNX Runtime's operators alone"}
    for axes, (native, title) in zip(panels, titles.items(), strict=True):
        for line in deployed:
            name = line["variant"]
            if line["native"] != native or name not in found:
                continue
            value = found[name].test()
            color = GREY if name.startswith("lstm") else ORANGE if "cell" in name else BLUE
            axes.errorbar(
                line["us_per_timestep"], value.mean, yerr=value.half, color=color, label=name,
                fmt=MARKERS[names.index(name) % len(MARKERS)], markersize=5, elinewidth=0.7,
            )  # fmt: skip
        axes.set(title=title, xlabel="µs a timestep, one stream, one thread")
        axes.set_xlim(left=0)
        _tidy(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=7.5)
    panels[0].set_ylabel(f"test {task.metric}")
    if not task.higher_is_better:
        panels[0].set_yscale("log")
    _save(figure, path)


def norms(flows: Sequence[Line], path: Path) -> None:
    """Draw ||dL/dh_t|| over t: the LSTM, and the BN-LSTM at several gammas."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    full = [line for line in flows if len(line["normalize"]) == 3 and line["seed"] == 0]
    colors = mpl.colormaps["viridis"]
    for rank, line in enumerate(full):
        axes.plot(line["norms"], color=colors(rank / len(full)), label=f"gamma {line['gamma']:g}")
    lstm = next(line for line in flows if not line["normalize"] and line["seed"] == 0)
    axes.plot(lstm["norms"], "--", color=GREY, label="LSTM")
    axes.set(yscale="log", xlabel="t", ylabel="norm of dL/dh at t, of T = 100")
    axes.legend(frameon=False, fontsize=8)
    _tidy(axes)
    _save(figure, path)


def factors(flows: Sequence[Line], path: Path) -> None:
    """Draw measured and predicted gains over gamma, a panel for each subset."""
    parts = {"h_h": (BLUE, "h from h"), "c_h": (GREEN, "c from h"), "h_c": (ORANGE, "h from c")}

    def pair(line: Line, name: str) -> tuple[float, float]:
        return line["measured"][name], line["predicted"]["factors"][name]

    _panels(flows, path, {name: (*style, pair) for name, style in parts.items()}, "squared gain")


def rates(flows: Sequence[Line], path: Path) -> None:
    """Draw the measured and predicted factor of the gradient's norm at a timestep."""

    def pair(line: Line, name: str) -> tuple[float, float]:
        return line[name], line["predicted"][name]

    _panels(flows, path, {"rate": (BLUE, "dL/dh", pair)}, "factor a timestep")


def _panels(flows: Sequence[Line], path: Path, parts: dict[str, Any], ylabel: str) -> None:
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    panels = figure.subplots(2, 4, sharex=True, sharey=True).flat
    for axes, normalize in zip(panels, subsets(), strict=True):
        lines = [line for line in flows if tuple(line["normalize"]) == normalize]
        for name, (color, label, pair) in parts.items():
            gammas = sorted({line["gamma"] for line in lines})
            first = {line["gamma"]: pair(line, name)[1] for line in lines}
            axes.plot(gammas, [first[gamma] for gamma in gammas], "-", color=color, linewidth=1)
            axes.plot(
                [line["gamma"] for line in lines], [pair(line, name)[0] for line in lines], "o",
                color=color, markersize=3, label=label,
            )  # fmt: skip
        axes.set_title("+".join(normalize) or "lstm", fontsize=9)
        axes.set_yscale("log")
        axes.set_xscale("log")
        _tidy(axes)
    figure.supxlabel("gamma (lines: predicted, dots: measured)", fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    if len(parts) > 1:
        handles, labels = figure.axes[-1].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=8
        )
    _save(figure, path)


def draw(task: Task, folder: Path) -> list[Path]:
    """Draw the figures of a task from its results; return their paths."""
    found = variants(folder / f"{task.name}.jsonl")
    written = [folder / f"{task.name}-curves.svg"]
    curves(task, found, written[0])
    deployed = read(folder / f"{task.name}-deployed.jsonl")
    if deployed:
        written.append(folder / f"{task.name}-time.svg")
        over_time(task, found, deployed, written[1])
    return written


def draw_flow(folder: Path) -> list[Path]:
    """Draw the figures of the gradient's flow."""
    flows = read(folder / "gradient-flow.jsonl")
    written = [folder / f"gradient-{name}.svg" for name in ("norms", "factors", "rates")]
    for drawing, path in zip((norms, factors, rates), written, strict=True):
        drawing(flows, path)
    return written
