"""Measure the graph forms against each other: python -m tools.benchmark --forms.

Variants of the model differ in what of them changes over time, and so in the forms that are exact:

    plain    no normalization
    shared   input and hidden product, with statistics shared over time
    input    the input product, with statistics for each timestep
    full     all three, with statistics for each timestep

Each is exported in every exact form and folding, with all the optional inputs that a model of this
package has, and run on the CPU without giving them. The variant `plain` is joined by the bare LSTM
operator of `tools.peers`. Times are taken as in `tools.benchmark`: in one process, in rounds.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich import box
from rich.progress import Progress
from rich.table import Table

from bnlstm_deploy.choices import Folding, Form
from bnlstm_deploy.errors import ExportError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.normalizations import NormPath
from bnlstm_deploy.runtime import Session
from tools import peers
from tools.peers import MEGABYTE, Array, Run, Setup, Size

VARIANTS: dict[str, tuple[tuple[NormPath, ...], bool]] = {
    "plain": ((), True),
    "shared": (("input", "hidden"), True),
    "input": (("input",), False),
    "full": (("input", "hidden", "cell"), False),
}
"""For each variant what is normalized, and whether timesteps share their statistics."""

KINDS: list[tuple[Form, Folding]] = [
    ("lstm", "factored"),
    ("scan", "factored"),
    ("scan", "materialized"),
    ("unrolled", "factored"),
    ("unrolled", "materialized"),
]
"""Forms and foldings, in the order of the table."""

OPERATOR = "LSTM operator"
MAX_WEIGHTS_MB = 512.0
"""Kinds whose weights for all timesteps take more than this are left out."""

MAX_UNROLLED = 256
"""Unrolled graphs of more timesteps take seconds to load, and are left out."""


@dataclass(frozen=True)
class FormResult:
    """What was measured of one form and folding."""

    kind: str
    us_per_timestep: float
    ratio: float
    """Its time over that of the fastest form."""
    chosen: bool
    """Whether it is what the export chooses by itself on a CPU."""


@dataclass(frozen=True)
class FormCase:
    """All exact forms and foldings of a variant at one size and number of threads."""

    variant: str
    size: Size
    threads: int
    rounds: int
    results: list[FormResult]


def random_variant(variant: str, size: Size, seed: int) -> BNLSTM:
    """Return a BNLSTM of a variant in evaluation, with random weights and statistics."""
    normalize, shared = VARIANTS[variant]
    torch.manual_seed(seed)
    model = BNLSTM(size.D, size.H, max_length=1 if shared else size.T, normalize=normalize)
    peers.randomize(model.eval())
    return model


def kinds(variant: str, size: Size) -> Iterator[tuple[Form, Folding]]:
    """Yield the forms and foldings that are worth measuring; some are not exact."""
    weights_mb = size.T * 4 * size.H * size.H * 4 / MEGABYTE
    normalize, shared = VARIANTS[variant]
    for form, folding in KINDS:
        if folding == "materialized" and ("hidden" not in normalize or shared):
            continue  # no scale to materialize: the graph is the factored one
        if folding == "materialized" and weights_mb > MAX_WEIGHTS_MB:
            continue
        if form == "unrolled" and size.T > MAX_UNROLLED:
            continue
        yield form, folding


def write_forms(variant: str, size: Size, seed: int, folder: Path) -> tuple[list[str], str]:
    """Write a file for each exact form and folding.

    Returns:
        Their names, and which of them the export chooses by itself.
    """
    model = random_variant(variant, size, seed)
    written = []
    for form, folding in kinds(variant, size):
        length = size.T if form == "unrolled" else None
        name = f"{form}, {folding}"
        try:
            export(model, folder / f"{name}.onnx", form=form, folding=folding, length=length)
        except ExportError:
            continue  # not exact
        written.append(name)
    auto = export(model, folder / "auto.onnx")
    return written, f"{auto.form}, {auto.folding}"


def measure_variants(
    variants: list[str],
    sizes: list[Size],
    threads: list[int],
    seed: int,
    seconds: float,
    progress: Progress,
) -> list[FormCase]:
    """Measure every exact form and folding of the variants at all sizes."""
    cases = []
    task = progress.add_task("", total=len(sizes) * len(variants) * len(threads))
    for variant in variants:
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                progress.update(task, description=f"{variant} {size}: export", refresh=True)
                names, auto = write_forms(variant, size, seed, Path(folder))
                for number in threads:
                    description = f"{variant} {size}: threads={number}"
                    progress.update(task, description=description, refresh=True)
                    setup = Setup(size, seed, number, "cpu", Path(folder))
                    cases.append(_measure(variant, setup, names, auto, seconds))
                    progress.update(task, advance=1, refresh=True)
    return cases


def forms_table(cases: list[FormCase], threads: int) -> Table:
    """Lay out the cases of one number of threads."""
    title = f"threads={threads}"
    made = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading in ("variant", "N,T,D,H", "form, folding"):
        made.add_column(heading)
    for heading in ("us/step", "ratio to best"):
        made.add_column(heading, justify="right")
    made.add_column("auto")
    for case in (case for case in cases if case.threads == threads):
        for r in case.results:
            figures = [f"{r.us_per_timestep:.1f}", f"{r.ratio:.2f}", "chosen" if r.chosen else ""]
            last = r is case.results[-1]
            made.add_row(case.variant, str(case.size), r.kind, *figures, end_section=last)
    return made


def _measure(variant: str, setup: Setup, names: list[str], auto: str, seconds: float) -> FormCase:
    runs = {name: _load(setup.file(name), setup.threads) for name in names}
    if variant == "plain":
        peers.write_lstm_operator(setup.size, setup.seed, setup.file(OPERATOR))
        runs[OPERATOR] = peers.load_onnxruntime(OPERATOR, setup)
    times = peers.interleave(runs, peers.random_input(setup), seconds)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    best = min(medians[name] for name in names)
    results = [
        FormResult(name, median * 1e3 / setup.size.T, median / best, name == auto)
        for name, median in medians.items()
    ]
    return FormCase(variant, setup.size, setup.threads, len(times[names[0]]), results)


def _load(path: Path, threads: int) -> Run:
    return partial(_run, Session(path, intra_op_num_threads=threads, native=False))


def _run(session: Session, x: Array) -> Array:
    return np.asarray(session(x)[0])
