"""Measure the deployed graph against training and against plain LSTMs: python -m tools.benchmark.

The peers are

    deployed       the folded export of a BNLSTM, run by bnlstm_deploy.runtime.Session
    eager          the BNLSTM itself in torch, in evaluation
    torch lstm     torch.nn.LSTM: no normalization
    lstm operator  ONNX's LSTM operator on ONNX Runtime: no normalization, the bar to reach
    unfolded       the BNLSTM exported with its normalizations left as they are

Times are taken in one process, in rounds, so that noise hits all alike: in each round every peer
runs twice on the same input. The second run is timed; the first, after a pause, makes it
independent of the peer before, of what that left in caches and of its threads, which wait actively
for a while. A ratio is the peer's median time over the deployed graph's: above 1, the deployed
graph is faster.

Peak memory is what loading a peer and running it twice adds to the largest resident size of a
process (`ru_maxrss`), the parts of libraries that are first touched then included. Each peer gets a
process of its own, forked from a server that has imported the libraries and done nothing else: one
started by the measuring process would inherit its peak.

With --forms the graph forms are measured against each other instead: see `tools.forms`. With
--serving it is a server that batches against one that does not: see `tools.serving`.

Export times include drawing the weights, and the first one loading torch's exporter.

With --provider cuda the deployed graph is unrolled and captured as a CUDA graph, `not captured` is
the same file without that, and torch runs on the GPU, its LSTM by cuDNN. Inputs and outputs are
numpy arrays on the host for all peers. TF32 is off. This was never run on a GPU yet.
"""

import json
import os
import platform
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import numpy as np
import onnxruntime as ort
import torch
import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bnlstm_deploy.errors import InputError, RuntimeSessionError
from bnlstm_deploy.runtime.providers import resolve
from tools import peers
from tools.forms import VARIANTS, FormCase, forms_table, measure_variants
from tools.peers import Run, Setup, Size
from tools.serving import ServingCase, measure_serving, serving_table

SIZES = ["1,784,1,100", "32,784,1,100", "1,100,64,256", "32,100,50,512", "1,100,50,1000"]
THREADS = [1, 2]
VARIANT_NAMES = list(VARIANTS)
TOLERANCE = 1e-5
"""Largest difference of equal functions in float32, whose values are between -1 and 1."""

FIGURES = ("ms", "quartiles", "us/step", "ratio", "peak MB", "load ms", "export s", "file MB")
TABLE_WIDTH = 120  # a narrower one would abbreviate the figures

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Result:
    """What was measured of one peer; None where it is not loaded from a file."""

    peer: str
    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    us_per_timestep: float
    ratio: float
    peak_memory_mb: float
    load_ms: float | None
    export_s: float | None
    file_mb: float | None


@dataclass(frozen=True)
class Case:
    """All peers at one size and number of threads."""

    size: Size
    threads: int
    rounds: int
    differences: dict[str, float]
    """Largest absolute difference between the outputs of two peers that should be equal."""
    results: list[Result]


@app.command()
def benchmark(
    sizes: Annotated[list[str], typer.Option("--size", help="N,T,D,H. Repeatable.")] = SIZES,
    threads: Annotated[list[int], typer.Option(help="Threads of each peer. Repeatable.")] = THREADS,
    seconds: Annotated[float, typer.Option(help="Time for a size and number of threads.")] = 8.0,
    provider: Annotated[str, typer.Option(help="Provider of the ONNX Runtime peers.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of weights and inputs.")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="File to write.")] = None,
    forms: Annotated[
        bool, typer.Option("--forms", help="Measure the graph forms against each other instead.")
    ] = False,
    serving: Annotated[
        bool,
        typer.Option("--serving", help="Measure a server with and without batching instead."),
    ] = False,
    clients: Annotated[int, typer.Option(help="Of the servers, with --serving.")] = 64,
    variants: Annotated[
        list[str], typer.Option("--variant", help="Of the model, with --forms. Repeatable.")
    ] = VARIANT_NAMES,
) -> None:
    """Measure the deployed graph against training and against plain LSTMs."""
    try:
        parsed = [parse_size(text) for text in sizes]
        resolve((provider,))
    except (InputError, RuntimeSessionError) as error:
        fail(str(error), code=2)
    least_values = (("--threads", min(threads), 1), ("--seed", seed, 0), ("--clients", clients, 1))
    for option, value, least in least_values:
        if value < least:
            fail(f"{option} is {value}; pass at least {least}", code=2)
    unknown = set(variants) - set(VARIANTS)
    if unknown:
        fail(f"--variant is {unknown.pop()!r}; pass one of {', '.join(VARIANTS)}", code=2)
    if provider != "cpu" and not torch.cuda.is_available():
        fail(
            f"--provider is {provider!r}, and torch finds no GPU for its peers; run "
            "this on a machine with one, with torch's CUDA build",
            code=2,
        )
    if forms and provider != "cpu":
        fail(f"--provider is {provider!r}; the forms are measured on the CPU", code=2)
    if serving and (forms or provider != "cpu"):
        fail("--serving is measured on the CPU, and without --forms", code=2)
    if json_path is not None and not json_path.parent.is_dir():
        fail(f"--json: the folder {json_path.parent} does not exist; create it first", code=2)

    cases: list[Case] | list[FormCase] | list[ServingCase]
    # auto_refresh would start a thread, which takes time from the peers.
    with Progress(console=Console(stderr=True), auto_refresh=False) as progress:
        if serving:
            cases = [measure_serving(size, clients, seed, seconds, progress) for size in parsed]
            tables = [serving_table(case) for case in cases]
        elif forms:
            cases = measure_variants(variants, parsed, threads, seed, seconds, progress)
            tables = [forms_table(cases, number) for number in threads]
        else:
            cases = measure_peers(parsed, threads, seed, provider, seconds, progress)
            tables = [table(cases, number) for number in threads]

    console = Console(width=TABLE_WIDTH)
    for made in tables:
        console.print(made)
    if json_path is not None:
        settings = {"seconds": seconds, "provider": provider, "seed": seed}
        report = {"environment": environment(), "settings": settings, "cases": cases}
        json_path.write_text(json.dumps(report, indent=2, default=asdict) + "\n")


def measure_peers(
    sizes: list[Size],
    threads: list[int],
    seed: int,
    provider: str,
    seconds: float,
    progress: Progress,
) -> list[Case]:
    """Measure all peers at all sizes and numbers of threads."""
    cases = []
    task = progress.add_task("", total=len(sizes) * len(threads))
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            progress.update(task, description=f"{size}: export", refresh=True)
            export_s = write_files(size, seed, provider, Path(folder))
            for number in threads:
                progress.update(task, description=f"{size}: threads={number}", refresh=True)
                setup = Setup(size, seed, number, provider, Path(folder))
                cases.append(measure(setup, export_s, seconds))
                progress.update(task, advance=1, refresh=True)
    return cases


def parse_size(text: str) -> Size:
    """Read N,T,D,H.

    Raises:
        InputError: These are not four integers of at least 1.
    """
    fields = text.split(",")
    if len(fields) != 4 or not all(field.isdecimal() and int(field) > 0 for field in fields):
        raise InputError(f"--size is {text!r}; pass N,T,D,H, four integers of at least 1")
    return Size(*map(int, fields))


def fail(message: str, code: int) -> NoReturn:
    """Leave with one line."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


def write_files(size: Size, seed: int, provider: str, folder: Path) -> dict[str, float]:
    """Write the ONNX files of one size and return the seconds that each took."""
    seconds = {}
    for peer, write in peers.writers(provider).items():
        start = time.perf_counter()
        write(size, seed, folder / f"{peer}.onnx")
        seconds[peer] = time.perf_counter() - start
    return seconds


def measure(setup: Setup, export_s: dict[str, float], seconds: float) -> Case:
    """Measure all peers at one size and number of threads."""
    loaders = peers.loaders(setup.provider)
    memory = {peer: peers.peak_memory(peer, setup) for peer in loaders}
    file_mb = {peer: setup.file(peer).stat().st_size / peers.MEGABYTE for peer in export_s}
    runs: dict[str, Run] = {}
    load_ms: dict[str, float] = {}
    for peer, load in loaders.items():
        start = time.perf_counter()
        runs[peer] = load(setup)
        load_ms[peer] = (time.perf_counter() - start) * 1e3
    x = peers.random_input(setup)
    differences = peers.compare(runs, x)
    for pair, difference in differences.items():
        if not difference <= TOLERANCE:
            fail(f"{setup.size}: the outputs differ, {pair}: {difference:.1e}", code=1)
    times = peers.interleave(runs, x, seconds)
    results = []
    for peer, milliseconds in times.items():
        lower, median, upper = (float(q) for q in np.percentile(milliseconds, (25, 50, 75)))
        results.append(
            Result(
                peer=peer,
                median_ms=median,
                lower_quartile_ms=lower,
                upper_quartile_ms=upper,
                us_per_timestep=median * 1e3 / setup.size.T,
                ratio=median / float(np.median(times["deployed"])),
                peak_memory_mb=memory[peer],
                load_ms=load_ms[peer] if peer in export_s else None,
                export_s=export_s.get(peer),
                file_mb=file_mb.get(peer),
            )
        )
    return Case(setup.size, setup.threads, len(times["deployed"]), differences, results)


def environment() -> dict[str, str | int | None]:
    """Return what the times depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": ort.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }


def table(cases: list[Case], threads: int) -> Table:
    """Lay out the cases of one number of threads."""
    title = f"threads={threads}"
    made = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading in ("N,T,D,H", "peer"):
        made.add_column(heading)
    for heading in FIGURES:
        made.add_column(heading, justify="right")
    for case in (case for case in cases if case.threads == threads):
        for r in case.results:
            figures = [f"{r.median_ms:.2f}", f"{r.lower_quartile_ms:.2f}-{r.upper_quartile_ms:.2f}"]
            figures += [f"{r.us_per_timestep:.1f}", f"{r.ratio:.2f}", f"{r.peak_memory_mb:.1f}"]
            costs = (r.load_ms, r.export_s, r.file_mb)
            figures += ["" if cost is None else f"{cost:.2f}" for cost in costs]
            made.add_row(str(case.size), r.peer, *figures, end_section=r is case.results[-1])
    return made


if __name__ == "__main__":
    app()
