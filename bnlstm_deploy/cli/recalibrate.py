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


def check_axes(path: Path, x: NDArray[np.floating], ends: NDArray[np.integer] | None) -> None:
    """Check that it is certain that x is time-major, which a checkpoint of other code does not say.

    Raises:
        InputError: It is not.
    """
    time_major, batch_first = (
        size > 1 and (ends is None or len(ends) == size) for size in (x.shape[1], x.shape[0])
    )
    if batch_first:
        which = "--batch-first or --time-major" if time_major else "--batch-first"
        raise InputError(
            f"{path} has sequences of shape {x.shape}, which may be (N, T, D) and "
            f"{'(T, N, D)' if time_major else 'nothing else'}; say so by {which}"
        )


def read_sequences(
    path: Path, *, lengths: bool
) -> tuple[NDArray[np.floating], NDArray[np.integer] | None, list[str]]:
    """Return the sequences, if asked for their lengths, and the names of what is not used."""
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
    ends = arrays["lengths"] if lengths else None
    if ends is not None and (ends.ndim != 1 or ends.dtype.kind not in "iu"):
        raise InputError(
            f"{path}: lengths is {ends.dtype} of shape {ends.shape}; pass integers (N,)"
        )
    return x, ends, sorted(arrays.keys() - {names[0], *needed})
