"""What float16 and bfloat16 cost in accuracy, part by part, emulated on a CPU.

    python -m tools.precision [CHECKPOINT]

Runs the folded model of the example over its test set in float64, and again with the results of
some of its operations rounded to a reduced dtype, and everything else in float32. Prints the table
of docs/precision.md. `matrix products only` is what exported graphs do, and the row after it is an
exported graph itself: of float16 as ONNX Runtime runs it on a CPU, of bfloat16 as the checker
emulates it. The errors of h there are those of the last timestep.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnlstm_deploy.checkpoint import load
from bnlstm_deploy.exporting import export
from bnlstm_deploy.folding import FoldedDirection, fold
from bnlstm_deploy.nn import BNLSTMModel
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.verification.measuring.emulate import emulated
from tools import digits

CHECKPOINT = Path("models/permuted-digits")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}

PARTS = ("products", "gates", "cell", "affine")
"""Matrix products and their operands; gates before and after activation; the cell state; the cell's
affine map, tanh and h."""

VARIANTS = {
    "everything": PARTS,
    "all but the cell state": ("products", "gates", "affine"),
    "all but cell state and affine": ("products", "gates"),
    "matrix products only": ("products",),
}

Round = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """One variant in one dtype."""

    dtype: str
    reduced: str
    h_error: float
    """Largest error of h over all timesteps and streams."""
    c_error: float
    """Of the final c, relative to the largest."""
    changed: int
    """Answers that are not those of float64."""
    correct: float
    """Part of the answers that are right."""


def run_fold(
    direction: FoldedDirection, x: Tensor, rounds: Mapping[str, Round]
) -> tuple[Tensor, Tensor]:
    """Run one direction with roundings; return h (T, N, H) and the final c (N, H).

    Args:
        direction: The fold, in float64.
        x: (T, N, D), in the dtype that is computed in.
        rounds: For each of PARTS, what is done to its results.
    """
    product, gate, cell, affine = (rounds[name] for name in PARTS)
    arrays = {
        name: torch.from_numpy(getattr(direction, name)).to(x.dtype)
        for name in (
            *("weight_ih", "weight_hh", "input_scale", "hidden_scale"),
            *("bias", "cell_scale", "cell_shift"),
        )
    }
    w, r = product(arrays["weight_ih"]).T, product(arrays["weight_hh"]).T
    h = c = torch.zeros(x.shape[1], direction.hidden_size, dtype=x.dtype)
    outputs = []
    for t, x_t in enumerate(x):
        k = int(direction.rows[min(t, direction.steps - 1)])
        gates = gate(product(product(x_t) @ w) * arrays["input_scale"][k])
        gates = gate(gates + arrays["bias"][k])
        gates = gate(gates + gate(product(product(h) @ r) * arrays["hidden_scale"][k]))
        i, f, g, o = gates.chunk(4, dim=1)
        i, f, g, o = gate(i.sigmoid()), gate(f.sigmoid()), gate(g.tanh()), gate(o.sigmoid())
        c = cell(cell(f * c) + cell(i * g))
        squashed = affine(affine(c * arrays["cell_scale"][k]) + arrays["cell_shift"][k])
        h = affine(o * affine(squashed.tanh()))
        outputs.append(h)
    return torch.stack(outputs), c


def measure(model: BNLSTMModel, x: Tensor, y: NDArray[np.int64]) -> list[Row]:
    """Return the errors of all variants.

    Args:
        model: One layer, one direction, with a head that reads the final state.
        x: (N, T, D), its inputs.
        y: (N,), the answers.
    """
    ((direction,),) = fold(model.rnn).layers
    exact = dict.fromkeys(PARTS, lambda value: value)
    steps = x.transpose(0, 1)
    truth, c_truth = run_fold(direction, steps.double(), exact)
    weight, bias = model.head.weight.detach().double(), model.head.bias.detach().double()

    def row(dtype: str, words: str, h: Tensor, c: Tensor, answers: Tensor) -> Row:
        same = (truth[-1] @ weight.T + bias).argmax(1)
        return Row(
            dtype,
            words,
            float((h.double() - truth[-len(h) :]).abs().max()),
            float((c.double() - c_truth).abs().max() / c_truth.abs().max()),
            int((answers != same).sum()),
            float((answers.numpy() == y).mean()),
        )

    rows = []
    h, c = run_fold(direction, steps.float(), exact)
    rows.append(row("float32", "nothing", h, c, (h[-1].double() @ weight.T + bias).argmax(1)))
    for name, dtype in DTYPES.items():

        def to(value: Tensor, dtype: torch.dtype = dtype) -> Tensor:
            return value.to(dtype).to(value.dtype)

        for words, parts in VARIANTS.items():
            rounds = exact | dict.fromkeys(parts, to)
            h, c = run_fold(direction, steps.float(), rounds)
            rows.append(row(name, words, h, c, (h[-1].double() @ weight.T + bias).argmax(1)))
        scores, h, c = run_graph(model, x, dtype)
        rows.append(row(name, "an exported graph", h, c, scores.argmax(1)))
    return rows


def run_graph(model: BNLSTMModel, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Export in a dtype and run; return the scores, the final h (1, N, H) and c (N, H)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(model, path, dtype=dtype)
        if dtype == torch.bfloat16:
            onnx.save(emulated(onnx.load(path)), path)
        scores, state = Session(path)(x.numpy())
    return torch.from_numpy(scores), torch.from_numpy(state.h), torch.from_numpy(state.c[0])


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| dtype | of what | largest error of h | of c, relative | changed answers | accuracy |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r.dtype} | {r.reduced} | {r.h_error:.1e} | {r.c_error:.1e} | {r.changed} "
        f"| {r.correct:.1%} |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure the checkpoint named on the command line, the example by default."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKPOINT
    model = load(path)
    assert isinstance(model, BNLSTMModel)
    test = digits.load().test
    with torch.no_grad():
        print(table(measure(model.eval(), torch.from_numpy(test.x), test.y)))


if __name__ == "__main__":
    main()
