"""Say for which nodes of a graph ONNX Runtime has CUDA kernels, without running it.

python -m tools.placement MODEL.onnx
"""

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid

from bnlstm_deploy.errors import BnlstmError
from tools.placement import Placement, Status, cuda_table, place


def main(
    file: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="Any ONNX file.")],
    native: Annotated[
        bool, typer.Option("--native", help="With this package's kernel, where it takes a node.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Print where the nodes of a graph would run; exit status 1 if one has no kernel."""
    table = cuda_table()
    try:
        nodes = place(file, table, native=native)
    except BnlstmError as error:
        sys.exit(f"error: {error}")
    missing = sum(node.status is Status.MISSING for node in nodes)
    if as_json:
        facts = {
            "onnxruntime": {"measured": table.measured, "documented": table.version},
            "source": table.source,
            "captures": all(node.captures for node in nodes),
            "missing": missing,
            "nodes": [asdict(node) | {"status": node.status.value} for node in nodes],
        }
        typer.echo(json.dumps(facts, indent=2))
    else:
        versions = f"{table.measured}, others of {table.version}"
        grid = Grid(title=f"CUDA, by the kernels of ONNX Runtime {versions}", title_justify="left")
        for name in ("op", "dtypes", "nodes", "runs on", "why"):
            grid.add_column(name, overflow="fold")
        groups = Counter(
            (n.op, ", ".join(dict.fromkeys(n.dtypes.values())), n.status.value, n.reason)
            for n in nodes
        )
        for (op, dtypes, status, reason), count in sorted(groups.items()):
            grid.add_row(op, dtypes, str(count), status, reason)
        console = Console()
        console.print(grid)
        console.print(_verdict(nodes, missing), highlight=False, soft_wrap=True)
    if missing:
        raise typer.Exit(1)


def _verdict(nodes: tuple[Placement, ...], missing: int) -> str:
    if missing:
        return f"{missing} of {len(nodes)} nodes {'has' if missing == 1 else 'have'} no CUDA kernel"
    kernels = f"all {len(nodes)} nodes have CUDA kernels"
    if all(node.captures for node in nodes):
        return f"{kernels}; can be captured as a CUDA graph"
    ops = ", ".join(sorted({node.op for node in nodes if not node.captures}))
    return f"{kernels}; cannot be captured as a CUDA graph: {ops}"


if __name__ == "__main__":
    typer.run(main)
