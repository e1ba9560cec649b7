"""bnlstm-deploy recalibrate."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import track

from bnlstm_deploy.cli.console import make_console
from bnlstm_deploy.cli.load import load
from bnlstm_deploy.cli.options import Checkpoint, Force, Reading
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.npz import read_npz

if TYPE_CHECKING:
    from torch import Tensor

INPUT_NAMES = ("input", "x")


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
    from bnlstm_deploy.checkpoint import save_checkpoint
    from bnlstm_deploy.checkpoint.own_format import check_folder
    from bnlstm_deploy.folding.health import warnings
    from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
    from bnlstm_deploy.nn import recalibrate as estimate

    console = make_console()
    check_folder(output, force=force, inputs=(checkpoint, data, *reading.files))
    arrays = _read(data, lengths=lengths)
    model = load(console, checkpoint, reading).model
    assert isinstance(model, BNLSTM | BNLSTMModel)
    rnn = model.rnn if isinstance(model, BNLSTMModel) else model
    x, ends = arrays
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


def _read(path: Path, *, lengths: bool) -> tuple[NDArray[np.floating], NDArray[np.integer] | None]:
    """Return the sequences and, if asked for, their lengths."""
    arrays = read_npz(path)
    names = [name for name in INPUT_NAMES if name in arrays]
    needed = ["lengths"] if lengths else []
    if len(names) != 1 or any(name not in arrays for name in needed):
        raise InputError(
            f"{path} holds {sorted(arrays)}; it needs one of {' and '.join(INPUT_NAMES)}"
            + (", and lengths" if lengths else "")
        )
    x = arrays[names[0]]
    if x.ndim != 3 or x.dtype.kind != "f" or not np.isfinite(x).all():
        raise InputError(
            f"{path}: {names[0]} is {x.dtype} of shape {x.shape}; pass finite floating point "
            "numbers, (N, T, D) or (T, N, D)"
        )
    return x, arrays["lengths"] if lengths else None
