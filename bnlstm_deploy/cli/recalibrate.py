"""bnlstm-deploy recalibrate."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import track

from bnlstm_deploy.cli.console import make_console
from bnlstm_deploy.cli.load import load
from bnlstm_deploy.cli.options import Checkpoint, Force, Reading

if TYPE_CHECKING:
    from torch import Tensor


def recalibrate(
    checkpoint: Checkpoint,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="X.npz",
            help="Sequences, as the array `input` or `x`: (N, T, D) for a batch-first model, else "
            "(T, N, D).",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="NEW", help="Folder to write.")],
    reading: Reading,
    lengths: Annotated[
        bool, typer.Option("--lengths", help="Use the array `lengths` (N) of the data, too.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option(help="Sequences of a minibatch; take that of the training.", min=2)
    ] = 100,
    seed: Annotated[int, typer.Option(help="Of the order of the sequences.", min=0)] = 0,
    force: Force = False,
) -> None:
    """Re-estimate the population statistics over a data set, with frozen weights.

    The paper's method: statistics of minibatches, averaged over the training set. Moving averages
    lag behind short trainings, and then mislead; this mends them. It changes the model, so it
    writes a new checkpoint, of this package's own format.

    Example: bnlstm-deploy recalibrate rnn.pt --data train.npz -o recalibrated
    """
    import numpy as np

    from bnlstm_deploy.checkpoint import save_checkpoint
    from bnlstm_deploy.checkpoint.own_format import check_folder
    from bnlstm_deploy.cli.sequences import check_axes, read_sequences
    from bnlstm_deploy.folding.health import warnings
    from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
    from bnlstm_deploy.nn import recalibrate as estimate

    console = make_console()
    check_folder(output, force=force, inputs=(checkpoint, data, *reading.files))
    x, ends, unused = read_sequences(data, lengths=lengths)
    model, imported, _ = load(console, checkpoint, reading)
    assert isinstance(model, BNLSTM | BNLSTMModel)
    rnn = model.rnn if isinstance(model, BNLSTMModel) else model
    if imported is not None and reading.batch_first is None:
        check_axes(data, x, ends)
    if unused:
        console.print(f"not used of {data}: {', '.join(unused)}", style="yellow")
    sequences = x if rnn.batch_first else x.swapaxes(0, 1)
    order = np.random.default_rng(seed).permutation(len(sequences))
    # parts of at least batch_size: a last one of a single sequence would have no variance
    parts = np.array_split(order, max(1, len(order) // batch_size))
    dtype = rnn.weight_ih_l0.dtype

    def batches() -> Iterator["tuple[Tensor, Tensor] | Tensor"]:
        import torch

        for rows in track(parts, "Recalibrating", console=console, transient=True):
            part = sequences[rows] if rnn.batch_first else sequences[rows].swapaxes(0, 1)
            batch = torch.from_numpy(np.ascontiguousarray(part)).to(dtype)
            yield batch if ends is None else (batch, torch.from_numpy(ends[rows]))

    estimate(rnn, batches())
    save_checkpoint(model, output, force=force)
    console.print(f"Wrote {output}: statistics of {len(sequences)} sequences")
    for warning in warnings(rnn):
        console.print(f"warning: {warning}", style="yellow")
