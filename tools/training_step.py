"""Time a training step's forward and backward pass: python -m tools.training_step.

Beside the operator of `bnlstm_deploy.nn.training` the same timesteps as a graph of autograd's own,
which the operator's tests hold it to, checkpointing over time, and `torch.nn.LSTM`. They take
turns, so that other work on the machine slows all alike.
"""

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.nn.recurrence import run_sequence


def peers(
    time_steps: int, features: int, hidden_size: int
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return what is timed: from x (T, N, D) to the last output."""
    model = BNLSTM(features, hidden_size, max_length=time_steps).train()
    sparing = BNLSTM(
        features, hidden_size, max_length=time_steps, checkpoint_steps=round(time_steps**0.5)
    ).train()
    lstm = nn.LSTM(features, hidden_size)
    weights = dict(model.named_parameters())

    def autograd(x: Tensor) -> Tensor:
        products = F.linear(x, weights["weight_ih_l0"])
        zeros = x.new_zeros(x.shape[1], hidden_size)
        bias = weights["bias_ih_l0"] + weights["bias_hh_l0"]
        norms = model.norms("_l0")
        state = (zeros, zeros)
        y, _ = run_sequence(products, state, weights["weight_hh_l0"], bias, norms, None, 0)
        return y[-1]

    return {
        "autograd's graph": autograd,
        "one operator": lambda x: model(x)[0][-1],
        "checkpoints over time": lambda x: sparing(x)[0][-1],
        "torch.nn.LSTM": lambda x: lstm(x)[0][-1],
    }


def main(
    streams: Annotated[int, typer.Option("-n", help="N.")] = 64,
    time_steps: Annotated[int, typer.Option("-t", help="T.")] = 784,
    features: Annotated[int, typer.Option("-d", help="D.")] = 1,
    hidden_size: Annotated[int, typer.Option("-h", help="H.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Of all peers.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Time forward and backward pass of a BN-LSTM in training, and of its peers."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(
        True
    )  # else a CPU takes a hundred times as long for vanished gradients
    torch.manual_seed(0)
    console = Console()
    x = torch.randn(time_steps, streams, features)
    runs = peers(time_steps, features, hidden_size)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in track(range(rounds + 1), "Measuring", console=console, transient=True):
        for name, run in runs.items():
            start = time.perf_counter()
            loss = run(x).square().sum()
            middle = time.perf_counter()
            loss.backward()  # type: ignore[no-untyped-call]
            taken[name].append((middle - start, time.perf_counter() - middle))
    table = Table(title=f"N {streams}, T {time_steps}, D {features}, H {hidden_size}, ms")
    for heading in ("", "forward", "backward", "both", "ratio"):
        table.add_column(heading, justify="right" if heading else "left")
    totals = {}
    for name, times in taken.items():
        parts = [statistics.median(part) * 1e3 for part in zip(*times[1:], strict=True)]
        totals[name] = sum(parts)
        ratio = totals["autograd's graph"] / totals[name]
        table.add_row(name, *(f"{ms:.0f}" for ms in (*parts, totals[name])), f"{ratio:.2f}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
