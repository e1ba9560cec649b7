"""Sequences that a command reads from an `.npz` file, to run a model on."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from bnlstm_deploy.cli.load import Loaded, read_arguments
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.npz import read_npz

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bnlstm_deploy.nn import BNLSTM

INPUT_NAMES = ("input", "x")

STREAMS = 64
"""That a model is run on at once."""


def minibatches(
    console: Console, loaded: Loaded, path: Path, *, axes_are_known: bool
) -> Iterator["tuple[Tensor, ...]"]:
    """Yield what a model is to be calibrated on, with a progress bar.

    Args:
        console: Of the bar.
        loaded: The model. One of one's own is run on all at once, since which of its axes are
            streams is its own affair.
        path: Its sequences, and their lengths if they are there, or its arguments.
        axes_are_known: Whether `--batch-first` or `--time-major` was given.

    Raises:
        InputError: The file does not hold the model's input, or values that are not finite.
    """
    import torch

    from bnlstm_deploy.nn import BNLSTM, BNLSTMModel

    model = loaded.model
    if not isinstance(model, BNLSTM | BNLSTMModel):
        yield _finite_arguments(model, path)
        return
    rnn = model.rnn if isinstance(model, BNLSTMModel) else model
    x, ends, unused = read_sequences(path, lengths=None)
    if loaded.imported is not None and not axes_are_known:
        check_axes(path, x, ends)
    _check_fit(path, rnn, x, ends)
    if unused:
        console.print(f"not used of {path}: {', '.join(unused)}", style="yellow")
    axis = 0 if rnn.batch_first else 1
    streams = np.arange(x.shape[axis])
    parts = np.array_split(streams, max(1, len(streams) // STREAMS))
    for part in track(parts, "Calibrating", console=console, transient=True):
        batch = torch.from_numpy(x.take(part, axis=axis))
        yield (batch,) if ends is None else (batch, torch.from_numpy(ends[part]))


def _finite_arguments(model: "nn.Module", path: Path) -> "tuple[Tensor, ...]":
    import torch

    arrays = read_arguments(model, path)
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{path}: {name} is not finite; pass numbers that the model takes")
    return tuple(map(torch.from_numpy, arrays.values()))


def _check_fit(
    path: Path, rnn: "BNLSTM", x: NDArray[np.floating], ends: NDArray[np.integer] | None
) -> None:
    if x.shape[2] != rnn.input_size:
        raise InputError(
            f"{path} has sequences of {x.shape[2]} features, and the model takes "
            f"{rnn.input_size}; pass data of the model's own input"
        )
    batch, time = x.shape[:2] if rnn.batch_first else x.shape[1::-1]
    if ends is None:
        return
    if len(ends) != batch or ((ends < 0) | (ends > time)).any():
        spread = f", from {ends.min()} to {ends.max()}" if len(ends) else ""
        raise InputError(
            f"{path}: lengths are {len(ends)} numbers{spread}; pass one of 0 to {time} for each of "
            f"the {batch} sequences"
        )


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
    path: Path, *, lengths: bool | None
) -> tuple[NDArray[np.floating], NDArray[np.integer] | None, list[str]]:
    """Read sequences, (N, T, D) or (T, N, D), and their lengths (N,).

    Args:
        path: The file.
        lengths: Whether the lengths are read; None: if they are there.

    Returns:
        The sequences, their lengths or None, and the names of what is not used.

    Raises:
        InputError: The file cannot be read, or does not hold them.
    """
    arrays = read_npz(path)
    if lengths is None:
        lengths = "lengths" in arrays
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
