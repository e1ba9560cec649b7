"""bnlstm-deploy bench."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bnlstm_deploy.atomic import check_writable, replacing
from bnlstm_deploy.cli.console import make_console
from bnlstm_deploy.cli.options import JsonReport, Model, Running
from bnlstm_deploy.errors import InputError

if TYPE_CHECKING:
    from bnlstm_deploy.runtime import Session
    from bnlstm_deploy.signature import Array

WARM_UP = 3


def bench(
    model: Model,
    running: Running,
    batch_size: Annotated[
        list[int] | None,
        typer.Option("--batch-size", "-b", help="Streams; repeatable.", show_default="1, 32"),
    ] = None,
    length: Annotated[
        list[int] | None,
        typer.Option(
            "--length", "-t", help="Timesteps; repeatable.", show_default="the steps of statistics"
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time for each size.", min=0)] = 1.0,
    json_report: JsonReport = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE.html",
            help="Also draw latency over streams and timesteps, beside that of the function body "
            "and of ONNX Runtime's LSTM operator of the same sizes, which normalizes nothing.",
        ),
    ] = None,
) -> None:
    """Measure latency and throughput over batch sizes and lengths.

    Example: bnlstm-deploy bench digits.onnx -b 1 -b 32 -t 64
    """
    console = make_console()
    for path in (json_report, html):
        if path is not None:
            check_writable(path, force=True, inputs=(model,))
    if html is not None:  # if an extra is missing, say so before the work and not after
        from bnlstm_deploy.pages import latency  # noqa: F401
    session = running.open(model)
    batches = batch_size or [1, 32]
    lengths = length or [session.metadata.length or session.metadata.steps]
    if min(*batches, *lengths) < 1:
        raise InputError(f"batch sizes {batches} and lengths {lengths} must be at least 1")
    sizes = [(batch, steps) for batch in batches for steps in lengths]
    rows = [
        measure(session, batch, steps, seconds)
        for batch, steps in track(sizes, "Measuring", console=console, transient=True)
    ]
    numbers, provider = session.metadata.numbers, session.providers[0]
    table = Table(title=f"{model.name}, {numbers}, on {provider}, {session.native}")
    for column in ("streams", "timesteps", "median ms", "p99 ms", "us a timestep", "streams/s"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["batch_size"]),
            str(row["length"]),
            f"{row['median_ms']:.3f}",
            f"{row['p99_ms']:.3f}",
            f"{row['us_per_timestep']:.1f}",
            f"{row['streams_per_s']:.0f}",
        )
    console.print(table)
    if json_report is not None:
        report = {
            "providers": session.providers,
            "kernel": str(session.native),
            "numbers": numbers,
            "threads": running.threads,
            "sizes": rows,
        }
        with replacing(json_report) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
    if html is not None:
        _draw(console, model, running, session, sizes, rows, seconds, html)


def _draw(
    console: Console,
    model: Path,
    running: Running,
    session: "Session",
    sizes: list[tuple[int, int]],
    rows: list[dict[str, float]],
    seconds: float,
    html: Path,
) -> None:
    """Measure the peers, and write the page."""
    from bnlstm_deploy.cli.peers import lstm_operator
    from bnlstm_deploy.pages.document import Content, write_page
    from bnlstm_deploy.pages.latency import draw_latency

    peers = {str(session.native) if session.native else "function body": rows}
    with lstm_operator(session.metadata) as lstm:
        others = {"function body": model} if session.native else {}
        if lstm is not None:
            others["LSTM operator"] = lstm
        for name, path in others.items():
            peer = replace(running, native=False).open(path)
            peers[name] = [
                measure(peer, batch, steps, seconds)
                for batch, steps in track(sizes, name, console=console, transient=True)
            ]
    lead = (
        f"{session.metadata.numbers}, on {session.providers[0]}, {session.native}; medians, each "
        f"of {seconds:g} s."
    )
    facts = {
        f"{row['batch_size']:.0f} streams, {row['length']:.0f} timesteps, {name}": (
            f"{row['median_ms']:.3f} ms, p99 {row['p99_ms']:.3f} ms, "
            f"{row['streams_per_s']:.0f} streams/s"
        )
        for name, measured in peers.items()
        for row in measured
    }
    figures = list(draw_latency(peers))
    write_page(Content(f"Latency of {model.name}", lead, figures, facts), html)


def measure(session: "Session", batch: int, steps: int, seconds: float) -> dict[str, float]:
    """Run random inputs of one size for so many seconds; return what it took."""
    import numpy as np

    feeds = _random_feeds(session, batch, steps)
    for _ in range(WARM_UP):
        session.run(feeds)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        session.run(feeds)
        times.append(time.perf_counter() - start)
    median = float(np.median(times))
    return {
        "batch_size": batch,
        "length": steps,
        "runs": len(times),
        "median_ms": median * 1e3,
        "p99_ms": float(np.quantile(times, 0.99)) * 1e3,
        "us_per_timestep": median * 1e6 / steps,
        "streams_per_s": batch / median,
    }


def _random_feeds(session: "Session", batch: int, steps: int) -> "dict[str, Array]":
    """Make standard normal inputs, and zeros for integer ones."""
    import numpy as np

    generator = np.random.default_rng(0)
    axes = {"batch": batch, "time": steps}
    feeds: dict[str, Array] = {}
    for value in session.inputs:
        shape = [axis if isinstance(axis, int) else axes.get(str(axis), 1) for axis in value.shape]
        array = generator.standard_normal(shape)
        if value.dtype is not None and value.dtype.kind != "f":
            array = np.zeros(shape)
        feeds[value.name] = array.astype(value.dtype or np.float32)
    return feeds
