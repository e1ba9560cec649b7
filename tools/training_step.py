"""Time a training step's forward and backward pass: python -m tools.training_step.

Beside the operator of `bnlstm_deploy.nn.training` the same timesteps as a graph of autograd's own,
which the operator's tests hold it to, checkpointing over time, and `torch.nn.LSTM`. They take
turns, so that other work on the machine slows all alike, each in a process of its own: what one
leaves of the heap would cost the next page faults that it has not in a training of its own.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
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


def serve(
    connection: Connection, name: str, sizes: tuple[int, int, int, int], threads: int
) -> None:
    """Take a step for each message, and answer the seconds of its forward and backward pass."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(
        True
    )  # else a CPU takes a hundred times as long for vanished gradients
    torch.manual_seed(0)
    streams, time_steps, features, hidden_size = sizes
    x = torch.randn(time_steps, streams, features)
    run = peers(time_steps, features, hidden_size)[name]
    while connection.recv():
        start = time.perf_counter()
        loss = run(x).square().sum()
        middle = time.perf_counter()
        loss.backward()  # type: ignore[no-untyped-call]
        connection.send((middle - start, time.perf_counter() - middle))


def main(
    streams: Annotated[int, typer.Option("-n", help="N.")] = 64,
    time_steps: Annotated[int, typer.Option("-t", help="T.")] = 784,
    features: Annotated[int, typer.Option("-d", help="D.")] = 1,
    hidden_size: Annotated[int, typer.Option("-h", help="H.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Of all peers.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Time forward and backward pass of a BN-LSTM in training, and of its peers."""
    console = Console()
    names = list(peers(1, features, hidden_size))
    sizes = streams, time_steps, features, hidden_size
    spawn = multiprocessing.get_context("spawn")
    connections: list[Connection] = []
    for name in names:
        ours, theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(theirs, name, sizes, threads), daemon=True).start()
        connections.append(ours)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in track(range(rounds + 1), "Measuring", console=console, transient=True):
        for name, connection in zip(names, connections, strict=True):
            connection.send(True)
            taken[name].append(connection.recv())
    for connection in connections:
        connection.send(False)
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
