"""What weights in fewer bits cost and gain: python -m tools.weights.

Writes the tables of docs/precision.md and the plot beside it. Accuracy, errors, files and memory
are of models/permuted-digits on its test set; calibration sees a part of its training set. Times
are of random models, in one process and in rounds (`tools.peers.interleave`), on one thread; beside
the native kernel's there are ONNX's LSTM operator, without normalization, and the same quantized by
ONNX Runtime (`quantize_dynamic`, which makes it com.microsoft's DynamicQuantizeLSTM).
"""

import multiprocessing
import re
import resource
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console

from bnlstm_deploy.atomic import replacing
from bnlstm_deploy.checkpoint import load
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTMModel
from bnlstm_deploy.runtime import Session
from tools import digits, peers
from tools.peers import MAXRSS_UNIT, MEGABYTE, Array, Run, Setup, Size

PAGE, PLOT = Path("docs/precision.md"), Path("docs/precision-weights.svg")
CHECKPOINT = Path("models/permuted-digits")

INT8 = {"weights": "int8"}
KINDS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float16": {"weights": "float16"},
    "bfloat16": {"weights": "bfloat16"},
    "int8": INT8,
    "int8, calibrated": INT8 | {"calibrated": True},
    "int8, h in int8": INT8 | {"activations": "int8"},
    "int8, h in int8, calibrated": INT8 | {"activations": "int8", "calibrated": True},
}
"""Arguments of `export`, but for the data that calibrate."""

TIMED = [kind for kind, options in KINDS.items() if "calibrated" not in options]
"""The others are as fast and as large."""

CALIBRATION = 300
"""Sequences of the training set."""

LARGEST = Size(1, 100, 50, 1000)
SIZES = (
    *(Size(1, 784, 1, 100), Size(1, 100, 64, 256), LARGEST),
    *(Size(32, 784, 1, 100), Size(32, 100, 64, 256)),
)

OPERATOR, QUANTIZED = "LSTM operator", "DynamicQuantizeLSTM"


@dataclass(frozen=True)
class Row:
    """What one kind of file of the example is like."""

    kind: str
    correct: float
    """Part of the answers that are right."""
    changed: int
    """Answers that are not the training model's in float64."""
    largest: float
    """Error of a score against float64."""
    mean: float
    file_kb: float
    weights_kb: float
    """Of the weights in it, with the scales that belong to them."""
    curve: tuple[float, ...]
    """(T,), the mean error of h at each timestep."""


def write(kind: str, model: torch.nn.Module, path: Path) -> None:
    """Export in a kind."""
    options = dict(KINDS[kind])
    if options.pop("calibrated", False):
        options["calibration"] = [torch.from_numpy(digits.load().train.x[:CALIBRATION])]
    export(model, path, **options)


def accuracy(
    model: BNLSTMModel,
    x: Array,
    y: NDArray[np.int64],
    folder: Path,
    kinds: Iterable[str] = tuple(KINDS),
) -> list[Row]:
    """Measure kinds of files of a model on data, (N, T, D) and (N,)."""
    with torch.no_grad():
        double = torch.from_numpy(x).double()
        scores = model.double()(double)[0].numpy()
        h = model.rnn(double)[0].numpy()
    model.float()
    rows = []
    for kind in kinds:
        path, recurrent = folder / f"{kind}.onnx", folder / f"{kind}, rnn.onnx"
        write(kind, model, path)
        write(kind, model.rnn, recurrent)
        found = Session(path)(x)[0]
        error = np.abs(found - scores)
        curve = np.abs(Session(recurrent)(x)[0] - h).mean(axis=(0, 2))
        rows.append(
            Row(
                kind,
                float((found.argmax(1) == y).mean()),
                int((found.argmax(1) != scores.argmax(1)).sum()),
                float(error.max()),
                float(error.mean()),
                path.stat().st_size / 1e3,
                weight_bytes(path) / 1e3,
                tuple(curve.tolist()),
            )
        )
    return rows


def memory(size: Size) -> dict[str, float]:
    """Return what loading and running a file of each kind adds to a process, in megabytes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tools.weights"])
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(size, 0, 1, "cpu", Path(folder))
        for kind in TIMED:
            write(kind, peers.random_bnlstm(size, 0), setup.file(kind))
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                x = peers.random_input(setup)
                found[kind] = pool.submit(added_memory, setup.file(kind), x).result()
    return found


def added_memory(path: Path, x: Array) -> float:
    """Load and run a file, and return what that added to this process's peak, in megabytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    session = Session(path, intra_op_num_threads=1)
    session(x)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * MAXRSS_UNIT / MEGABYTE


def weight_bytes(path: Path) -> int:
    """Return the bytes of the recurrent layers' weights in a file, with scales of int8's rows."""
    import onnx  # noqa: PLC0415 (not a part of what `added_memory` measures)

    held = onnx.load(path).graph.initializer
    return sum(
        len(onnx.numpy_helper.to_array(entry).tobytes())
        for entry in held
        if "weight_ih_l" in entry.name or "weight_hh_l" in entry.name
    )


def speed(size: Size, seconds: float) -> dict[str, float]:
    """Return microseconds a timestep of each kind at a size, and of the operators."""
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(size, 0, 1, "cpu", Path(folder))
        model = peers.random_bnlstm(size, 0)
        runs: dict[str, Run] = {}
        for kind in TIMED:
            write(kind, model, setup.file(kind))
            runs[kind] = partial(_run, Session(setup.file(kind), intra_op_num_threads=1))
        peers.write_lstm_operator(size, 0, setup.file(OPERATOR))
        quantize(setup.file(OPERATOR), setup.file(QUANTIZED))
        for operator in (OPERATOR, QUANTIZED):
            runs[operator] = peers.load_onnxruntime(operator, setup)
        times = peers.interleave(runs, peers.random_input(setup), seconds)
    return {kind: float(np.median(values)) * 1e3 / size.T for kind, values in times.items()}


def quantize(source: Path, output: Path) -> None:
    """Have ONNX Runtime quantize an LSTM operator, and see that it did."""
    import onnx  # noqa: PLC0415
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    quantize_dynamic(source, output, op_types_to_quantize=["LSTM"], weight_type=QuantType.QInt8)
    assert any(node.op_type == QUANTIZED for node in onnx.load(output).graph.node)


def _run(session: Session, x: Array) -> Array:
    return np.asarray(session(x)[0])


def accuracy_table(rows: list[Row]) -> str:
    """Lay out what files of the example are like, as Markdown."""
    lines = [
        "| weights | accuracy | changed | largest error | mean | file KB | weights KB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r.kind} | {r.correct:.1%} | {r.changed} | {r.largest:.1e} | {r.mean:.1e} "
        f"| {r.file_kb:.0f} | {r.weights_kb:.0f} |"
        for r in rows
    ]
    return "\n".join(lines)


def speed_table(found: Mapping[Size, Mapping[str, float]], megabytes: Mapping[str, float]) -> str:
    """Lay out microseconds a timestep, ratios to float32, and memory, as Markdown."""
    lines = [
        "| weights | " + " | ".join(str(size) for size in found) + f" | MB, {LARGEST} |",
        "|---|" + "---:|" * (len(found) + 1),
    ]
    for kind in next(iter(found.values())):
        figures = [
            f"{times[kind]:.1f} ({times[kind] / times['float32']:.2f})" for times in found.values()
        ]
        figures.append(f"{megabytes[kind]:.0f}" if kind in megabytes else "-")
        lines.append(f"| {kind} | {' | '.join(figures)} |")
    return "\n".join(lines)


def draw(rows: list[Row], path: Path) -> None:
    """Draw the mean errors of h over timesteps."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    for row in rows:
        axis.plot(row.curve, label=row.kind, linewidth=1.2)
    axis.set(yscale="log", xlabel="timestep", ylabel="mean error of h")
    axis.grid(color="#dddddd")
    axis.legend(fontsize="x-small", ncols=2)
    with mpl.rc_context({"svg.hashsalt": "bnlstm", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def filled(page: str, name: str, content: str) -> str:
    """Return a page with what is between two comments of a name replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    parts = re.compile(f"{begin}.*?{end}", re.DOTALL)
    assert len(parts.findall(page)) == 1, name
    return parts.sub(lambda _: f"{begin}\n{content}\n{end}", page)


def main(
    seconds: Annotated[float, typer.Option(help="Time for a size.")] = 20.0,
) -> None:
    """Measure weights in fewer bits, and write the tables of docs/precision.md."""
    console = Console()
    model = load(CHECKPOINT)
    assert isinstance(model, BNLSTMModel)
    test = digits.load().test
    with tempfile.TemporaryDirectory() as folder:
        rows = accuracy(model.eval(), test.x, test.y, Path(folder))
    found = {}
    for size in SIZES:
        found[size] = speed(size, seconds)
        console.print(size, found[size])
    page = filled(PAGE.read_text(), "accuracy", accuracy_table(rows))
    page = filled(page, "speed", speed_table(found, memory(LARGEST)))
    draw(rows, PLOT)
    with replacing(PAGE) as temporary:
        temporary.write_text(page)


if __name__ == "__main__":
    typer.run(main)
