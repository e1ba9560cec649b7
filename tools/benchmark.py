"""Measure the deployed graph against training and against plain LSTMs: python -m tools.benchmark.

The peers are

    native         the folded export of a BNLSTM, run by bnlstm_deploy.runtime.Session
    function body  the same file without the native kernel
    eager          the BNLSTM itself in torch, in evaluation
    torch lstm     torch.nn.LSTM: no normalization
    lstm operator  ONNX's LSTM operator on ONNX Runtime: no normalization, the bar to reach
    unfolded       the BNLSTM exported with its normalizations left as they are

Times are taken in one process, in rounds, so that noise hits all alike: in each round every peer
runs twice on the same input. The second run is timed; the first, after a pause, makes it
independent of the peer before, of what that left in caches and of its threads, which wait actively
for a while. A ratio is the peer's median time over the native kernel's: above 1, that is faster.

What the native kernel has to reach is measured and judged at the end (`tools.bars`): against the
LSTM operator, torch's LSTM, the training model, the roof of this machine's caches and arithmetic
(`tools.roofline`), and in calls of one timestep (`tools.chunk`). --plots draws times over H and N.

Peak memory is what loading a peer and running it twice adds to the largest resident size of a
process (`ru_maxrss`), the parts of libraries that are first touched then included. Each peer gets a
process of its own, forked from a server that has imported the libraries and done nothing else: one
started by the measuring process would inherit its peak.

With --forms the graph forms are measured against each other instead: see `tools.forms`. With
--serving it is a server that batches against one that does not: see `tools.serving`. Weights in
fewer bits are measured by `tools.weights`, beside ONNX Runtime's quantized LSTM operator.

Export times include drawing the weights, and the first one loading torch's exporter.

With --provider cuda the native kernel is captured as a CUDA graph and not, with a launch a
timestep (`step`) and one in all (`sequence`, where the weights fit), in float32 and in float16;
`unrolled` is what ONNX Runtime's own kernels do best, captured, too; and torch runs on the GPU, its
LSTM by cuDNN, as is the LSTM operator. Inputs and outputs are numpy arrays on the host for all
peers. TF32 is off. It takes some minutes. This was never run on a GPU yet:

    python -m tools.benchmark --provider cuda --json gpu.json
"""

import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import onnxruntime as ort
import torch
import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bnlstm_deploy.errors import InputError, RuntimeSessionError
from bnlstm_deploy.runtime.kernel import instruction_sets
from bnlstm_deploy.runtime.providers import resolve
from tools import peers
from tools.bars import bars, bars_table
from tools.benchmark_plots import OVER_H, OVER_N, draw
from tools.chunk import measure_chunk
from tools.forms import VARIANTS, FormCase, forms_table, measure_variants
from tools.measured import Case, Result
from tools.peers import Run, Setup, Size
from tools.roofline import measure_roof
from tools.serving import ServingCase, measure_serving, serving_tables

SIZES = [
    *("1,784,1,100", "32,784,1,100", "1,100,64,256", "8,200,40,256", "32,100,50,512"),
    *("256,50,64,512", "1,100,50,1000"),
]
SIZES_ON_CUDA = [
    *("1,784,1,100", "32,784,1,100", "32,100,64,64", "64,100,64,256", "256,50,64,512"),
]
THREADS = [1, 2]
VARIANT_NAMES = list(VARIANTS)
TOLERANCE = 1e-5
"""Largest difference of equal functions in float32, whose values are between -1 and 1."""

REDUCED_TOLERANCE = 2e-2
"""The same where operands of products are float16."""

FIGURES = (
    *("ms", "quartiles", "us/step", "ratio", "error", "peak MB", "load ms", "export s", "file MB"),
)
TABLE_WIDTH = 120  # a narrower one would abbreviate the figures

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def benchmark(
    sizes: Annotated[
        list[str] | None,
        typer.Option("--size", help="N,T,D,H. Repeatable. By default those of the provider."),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(help="Threads of each peer. Repeatable. By default 1 and 2, on a GPU 1."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time for a size and number of threads.")] = 8.0,
    provider: Annotated[str, typer.Option(help="Provider of the ONNX Runtime peers.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of weights and inputs.")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="File to write.")] = None,
    plots: Annotated[
        Path | None,
        typer.Option(help="Also measure sizes over H and N, and draw them into this folder."),
    ] = None,
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
    threads = threads or (THREADS if provider == "cpu" else [1])
    try:
        usual = SIZES if provider == "cpu" else SIZES_ON_CUDA
        parsed = [parse_size(text) for text in sizes or usual]
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
    if plots is not None and (forms or serving or provider != "cpu" or not plots.is_dir()):
        fail(f"--plots is {plots}; pass a folder that exists, and only peers on the CPU", code=2)
    if json_path is not None and not json_path.parent.is_dir():
        fail(f"--json: the folder {json_path.parent} does not exist; create it first", code=2)

    more: dict[str, Any] = {}
    cases: list[Case] | list[FormCase] | list[ServingCase]
    # auto_refresh would start a thread, which takes time from the peers.
    with Progress(console=Console(stderr=True), auto_refresh=False) as progress:
        if serving:
            cases = [measure_serving(size, clients, seed, seconds, progress) for size in parsed]
            tables = [table for case in cases for table in serving_tables(case)]
        elif forms:
            cases = measure_variants(variants, parsed, threads, seed, seconds, progress)
            tables = [forms_table(cases, number) for number in threads]
        else:
            measured = measure_peers(parsed, threads, seed, provider, seconds, progress)
            cases, tables = measured, [table(measured, number) for number in threads]
            if provider == "cpu":
                chunk = measure_chunk(seed, seconds)
                reached = list(bars(measured, chunk))
                tables.append(bars_table(reached))
                more = {"chunk": chunk, "bars": [asdict(bar) | {"met": bar.met} for bar in reached]}
            if plots is not None:
                rows = [sweep(sizes, seed, seconds, progress) for sizes in (OVER_H, OVER_N)]
                more |= {"over_h": rows[0], "over_n": rows[1]}
                draw(rows[0], rows[1], plots)

    for made in tables:
        Console(width=TABLE_WIDTH).print(made)
    if json_path is not None:
        settings = {"seconds": seconds, "provider": provider, "seed": seed}
        report = {"environment": environment(), "settings": settings, "cases": cases} | more
        json_path.write_text(json.dumps(report, indent=2, default=asdict) + "\n")


def measure_peers(
    sizes: list[Size],
    threads: list[int],
    seed: int,
    provider: str,
    seconds: float,
    progress: Progress,
    *,
    memory: bool = True,
) -> list[Case]:
    """Measure all peers at all sizes and numbers of threads; the peaks of memory take processes."""
    cases = []
    task = progress.add_task("", total=len(sizes) * len(threads))
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            progress.update(task, description=f"{size}: export", refresh=True)
            export_s = write_files(size, seed, provider, Path(folder))
            for number in threads:
                progress.update(task, description=f"{size}: threads={number}", refresh=True)
                setup = Setup(size, seed, number, provider, Path(folder))
                # Peaks of a process say nothing of a GPU.
                asked = memory and provider == "cpu"
                cases.append(measure(setup, export_s, seconds, memory=asked))
                progress.update(task, advance=1, refresh=True)
    return cases


def sweep(sizes: Sequence[Size], seed: int, seconds: float, progress: Progress) -> list[Case]:
    """Measure all peers on one thread at the sizes of a plot."""
    return measure_peers(list(sizes), [1], seed, "cpu", seconds / 4, progress, memory=False)


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


def measure(
    setup: Setup, export_s: dict[str, float], seconds: float, *, memory: bool = True
) -> Case:
    """Measure all peers at one size and number of threads."""
    loaders = peers.loaders(setup.provider, setup.size)
    peaks = {peer: peers.peak_memory(peer, setup) for peer in loaders} if memory else {}
    runs: dict[str, Run] = {}
    load_ms: dict[str, float] = {}
    for peer, load in loaders.items():
        start = time.perf_counter()
        runs[peer] = load(setup)
        load_ms[peer] = (time.perf_counter() - start) * 1e3
    x = peers.random_input(setup)
    differences = peers.compare(runs, x)
    for pair, difference in differences.items():
        if not difference <= (REDUCED_TOLERANCE if "float16" in pair else TOLERANCE):
            fail(f"{setup.size}: the outputs differ, {pair}: {difference:.1e}", code=1)
    errors = peers.errors(runs, setup, x)
    roof = measure_roof(setup.size, setup.threads) if setup.provider == "cpu" else None
    times = peers.interleave(runs, x, seconds)
    first = float(np.median(next(iter(times.values()))))
    results = []
    for peer, milliseconds in times.items():
        lower, median, upper = (float(q) for q in np.percentile(milliseconds, (25, 50, 75)))
        file = setup.file(peer)
        results.append(
            Result(
                peer=peer,
                median_ms=median,
                lower_quartile_ms=lower,
                upper_quartile_ms=upper,
                us_per_timestep=median * 1e3 / setup.size.T,
                ratio=median / first,
                peak_memory_mb=peaks.get(peer),
                load_ms=load_ms[peer] if file.exists() else None,
                export_s=export_s.get(file.stem),
                file_mb=file.stat().st_size / peers.MEGABYTE if file.exists() else None,
            )
        )
    rounds = min(map(len, times.values()))
    return Case(setup.size, setup.threads, rounds, differences, errors, roof, results)


def environment() -> dict[str, str | int | None]:
    """Return what the times depend on."""
    return {
        "cpu": cpu(),
        "instruction_set": (instruction_sets() or (None,))[-1],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": ort.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": os.cpu_count(),
    }


def cpu() -> str:
    """Return the processor's name and caches, as far as Linux tells."""
    try:
        lines = subprocess.check_output(("lscpu",), text=True, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in lines.splitlines() if ":" in line)
    names = ("Model name", "L1d cache", "L2 cache", "L3 cache")
    return ", ".join(f"{n.removesuffix(' cache')} {facts[n].strip()}" for n in names if n in facts)


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
            figures += [f"{r.us_per_timestep:.1f}", f"{r.ratio:.2f}"]
            error = case.errors.get(r.peer)
            figures.append("" if error is None else f"{error:.1e}")
            costs = (r.peak_memory_mb, r.load_ms, r.export_s, r.file_mb)
            figures += ["" if cost is None else f"{cost:.2f}" for cost in costs]
            made.add_row(str(case.size), r.peer, *figures)
        if case.roof is not None:
            made.add_row(str(case.size), "roof", "", "", f"{case.roof.us_per_timestep:.1f}")
        made.add_section()
    return made


if __name__ == "__main__":
    app()
