"""The table of launches: `make launches` counts it anew and writes it, here and in docs/gpu.md."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.cuda_stub.measure import CAPTURED, Row, all_rows

TABLE = Path(__file__).with_name("launches.json")
PAGE = Path(__file__).parents[2] / "docs" / "gpu.md"
BEGIN, END = "<!-- launches: begin -->\n", "<!-- launches: end -->\n"

REFUSALS = {
    "control flow": "refused: control flow",
    "not been partitioned": "refused: nodes on CPU",
}
"""What the page says of ONNX Runtime's messages, by words of theirs."""


def load() -> list[Row]:
    """Read the table."""
    return [Row(**row) for row in json.loads(TABLE.read_text())]


def dumps(rows: list[Row]) -> str:
    """Return the table as JSON, a row a line."""
    return "[\n" + ",\n".join(json.dumps(asdict(row)) for row in rows) + "\n]\n"


def markdown(rows: list[Row]) -> str:
    """Lay out the rows of one layer and one direction whose initial state is not given.

    Rows of several dtypes are one where they have the same numbers.
    """
    header = (
        "| form, folding | dtype | lengths | kernels | products | copies | waits "
        "| kernels, products | to and from the CPU | waits | nodes on the CPU | CUDA graph |"
    )
    dtypes: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if (row.layers, row.directions) == (1, 1) and "state" not in row.given:
            dtypes.setdefault(_cells(row), []).append(row.dtype)
    lines = [header, "|---|---|---|" + "---:|" * 7 + "---|---|"]
    for (kind, *cells), names in dtypes.items():
        lines.append("| " + " | ".join([kind, ", ".join(names), *cells]) + " |")
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row, without the one of the dtype."""
    step, rest = row.step, row.rest
    cells = [
        f"`{row.form}`, {row.folding}" + (f": {row.of}" if row.of else ""),
        "given" if row.given else "",
        step["kernels"],
        step["products"],
        step["D2D"] + step["H2D"] + step["D2H"],
        step["waits"],
        rest["kernels"] + rest["products"] + rest["cuDNN"],
        rest["H2D"] + rest["D2H"],
        rest["waits"],
        ", ".join(f"{count} {name}" for name, count in row.cpu.items()),
        _graph(row.graph),
    ]
    return tuple(map(str, cells))


def page(text: str, rows: list[Row]) -> str:
    """Return the page's text with the table of these rows between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{markdown(rows)}\n{END}{after}"


def _graph(graph: str) -> str:
    return graph if graph == CAPTURED else next(s for w, s in REFUSALS.items() if w in graph)


def main() -> None:
    """Count, and write the table and the page."""
    with tempfile.TemporaryDirectory() as folder:
        rows = all_rows(Path(folder))
    TABLE.write_text(dumps(rows))
    PAGE.write_text(page(PAGE.read_text(), rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
