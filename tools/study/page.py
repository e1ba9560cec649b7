"""The tables of docs/study.md, written from results files: python -m tools.study.page."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import typer

from tools.study.deployed import FORMS
from tools.study.grid import ABLATED
from tools.study.runner import read
from tools.study.summary import Estimate, Line, estimate, variants
from tools.study.tasks import Task, tasks

FOLDER = Path("docs/study")
PAGE = Path("docs/study.md")
BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, its first column of text."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def shown(task: Task, value: Estimate) -> str:
    """Return an estimate in the unit and with the digits that the tables have."""
    if task.metric == "accuracy":
        return value.text(1, 100)
    return value.text(3) if task.metric.startswith("bits") else value.text(2, 1000)


def unit(task: Task) -> str:
    """Return what the tables' numbers of a task are."""
    if task.metric == "accuracy":
        return "accuracy, %"
    return task.metric if task.metric.startswith("bits") else f"{task.metric}, thousandths"


def ablation(task: Task, folder: Path) -> str:
    """Return the test's metric of every variant, by the statistics that normalize."""
    found = variants(folder / f"{task.name}.jsonl")
    kinds = ("recalibrated", "moving_averages", "minibatch")
    deployed = {
        (line["variant"], line["native"]): line
        for line in read(folder / f"{task.name}-deployed.jsonl")
    }
    rows = []
    for name, variant in found.items():
        values = [shown(task, variant.test(kind)) for kind in kinds]
        if "norm" not in variant.lines[0]["experiment"]["kind"] and not _normalized(name):
            values[1:] = ["", ""]
        graphs = [deployed.get((name, native)) for native in (True, False)]
        costs = ["" if graph is None else f"{graph['us_per_timestep']:.2f}" for graph in graphs]
        size = "" if graphs[0] is None else f"{graphs[0]['kilobytes']:.0f}"
        rows.append([name, *values, *costs, size])
    heads = [
        "normalized",
        unit(task),
        "moving averages",
        "minibatch",
        "µs, kernel",
        "µs, operators",
    ]
    return table([*heads, "kB"], rows)


def _normalized(name: str) -> bool:
    return not name.startswith(("lstm", "layer norm"))


def price(task: Task, folder: Path) -> str:
    """Return the metric of the changed models, over their seeds."""
    changes: dict[str, list[Line]] = {}
    for line in read(folder / f"{task.name}-price.jsonl"):
        changes.setdefault(line["change"], []).append(line)
    rows = []
    for change, lines in changes.items():
        counts = sorted({line["rows"] for line in lines})
        kept = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        tuned = [line["tuned"] for line in lines]
        after = "" if None in tuned else shown(task, estimate(tuned))
        rows.append([change, kept, shown(task, estimate([x["value"] for x in lines])), after])
    return table(["change", "rows left", unit(task), "gamma, beta tuned"], rows)


def forms(task: Task, folder: Path) -> str:
    """Return what a timestep costs in each form that is exact, and how large the file is."""
    found: dict[str, dict[str, Line]] = {}
    for line in read(folder / f"{task.name}-forms.jsonl"):
        found.setdefault(line["variant"], {})[line["form"]] = line
    rows = []
    for name, lines in found.items():
        cells = [name]
        for key, digits in (("us_per_timestep", 2), ("kilobytes", 0)):
            cells += [f"{lines[form][key]:.{digits}f}" if form in lines else "" for form in FORMS]
        rows.append(cells)
    heads = [f"µs, {form}" for form in FORMS] + [f"kB, {form}" for form in FORMS]
    return table(["normalized", *heads], rows)


def rates(folder: Path) -> str:
    """Return the gradient's factors a timestep, measured and predicted."""
    settings: dict[tuple[str, float], list[Line]] = {}
    for line in read(folder / "gradient-flow.jsonl"):
        name = "+".join(line["normalize"]) or "lstm"
        settings.setdefault((name, line["gamma"]), []).append(line)
    rows = [
        [
            name,
            "" if name == "lstm" else f"{gamma:g}",
            estimate([line["rate"] for line in lines]).text(3),
            f"{lines[0]['predicted']['rate']:.3f}",
        ]
        for (name, gamma), lines in settings.items()
        if gamma in {0.01, 0.1, 0.3, 1.0}
    ]
    return table(["normalized", "gamma", "measured", "predicted"], rows)


def tables(folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield the name of each table and what writes it."""
    for name, task in tasks().items():
        yield name, lambda task=task: ablation(task, folder)  # type: ignore[misc]
        if name in ABLATED:
            yield f"{name}-forms", lambda task=task: forms(task, folder)  # type: ignore[misc]
            yield f"{name}-price", lambda task=task: price(task, folder)  # type: ignore[misc]
    yield "gradient-rates", lambda: rates(folder)


def refreshed(text: str, folder: Path) -> str:
    """Return a page with its tables written anew."""
    writers = dict(tables(folder))
    return BLOCK.sub(lambda found: f"{found[1]}{writers[found['name']]()}{found[3]}", text)


def main() -> None:
    """Write the tables of both pages anew."""
    for path in (PAGE, PAGE.with_name("gradient_flow.md")):
        path.write_text(refreshed(path.read_text(), FOLDER))


if __name__ == "__main__":
    typer.run(main)
