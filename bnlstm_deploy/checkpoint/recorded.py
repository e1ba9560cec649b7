"""An imported model against inputs and outputs that its source recorded."""

import copy
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.npz import read_npz

Array = NDArray[np.floating]

FLOAT64_LIMIT = 1e-9
"""Error allowed against outputs recorded in float64, relative to their largest magnitude."""

FLOAT32_RATIO = 4.0
"""Times the imported model's own float32 error allowed against outputs recorded in float32."""

FLOAT32_FLOOR = 8 * float(np.finfo(np.float32).eps)
"""Error always allowed in float32, relative to the largest magnitude."""

COMPARED = ("output", "h_n", "c_n")

BATCH_FIRST, TIME_MAJOR = "batch-first", "time-major"

OURS = "(layers * directions, N, H)"
"""How final states are arranged here."""


@dataclass(frozen=True)
class Recording:
    """What the source computed. Names in the file are those of the fields."""

    x: Array
    """(N, T, D) or (T, N, D)."""
    output: Array
    """Of the recurrent layers or the head, its first two axes in either order."""
    h_n: Array | None = None
    """(num_layers * num_directions, N, H), or arranged otherwise; see `arrangements`."""
    c_n: Array | None = None
    """The same."""
    output_fp64: Array | None = None
    """`output`, computed in float64; likewise the next two."""
    h_n_fp64: Array | None = None
    c_n_fp64: Array | None = None
    initial_h: Array | None = None
    """(num_layers * num_directions, N, H); the model's own, learned or 0, by default."""
    initial_c: Array | None = None
    lengths: NDArray[np.integer] | None = None
    """(N,)"""

    def values(self) -> Iterator[tuple[str, Array]]:
        """Yield what is to be compared, and its name, once for each precision."""
        for name in COMPARED:
            for array in (getattr(self, f"{name}_fp64"), getattr(self, name)):
                if array is not None:
                    yield name, array


@dataclass(frozen=True)
class Agreement:
    """How far a model is from a recording."""

    axes: str
    """How the recording's axes were read, and its states if they are not as ours."""
    errors: Mapping[str, float]
    """Largest absolute error of each output, by name and dtype."""
    allowed: Mapping[str, float]

    @property
    def holds(self) -> bool:
        """Whether every error is allowed; NaN never is."""
        return not self.differing

    @property
    def differing(self) -> tuple[str, ...]:
        """The outputs whose error is not allowed."""
        wrong = [name for name in self.errors if not self.errors[name] <= self.allowed[name]]
        return tuple(dict.fromkeys(name.partition(" ")[0] for name in wrong))

    @property
    def excess(self) -> float:
        """The largest error as a multiple of what is allowed."""
        ratios = [self.errors[name] / self.allowed[name] for name in self.errors]
        return float(np.nan_to_num(max(ratios), nan=np.inf))

    def __str__(self) -> str:
        parts = [
            f"{name} off by {error:.1e} (allowed {self.allowed[name]:.1e})"
            for name, error in self.errors.items()
        ]
        differs = f"{' and '.join(self.differing)} differs: " if self.differing else ""
        return f"{differs}{', '.join(parts)}, with {self.axes}"


def read_recording(path: Path) -> Recording:
    """Read a recording from `.npz`.

    Raises:
        InputError: The file cannot be read, lacks x or output, has other names, or the shapes
            contradict each other.
    """
    arrays: dict[str, Any] = dict(read_npz(path))
    known = [field.name for field in fields(Recording)]
    unknown = sorted(arrays.keys() - set(known))
    missing = [name for name in ("x", "output") if name not in arrays]
    if unknown or missing:
        raise InputError(
            f"{path} lacks {missing} and has the unknown arrays {unknown}; save x and output with "
            f"numpy.savez and, where there are any, {', '.join(known[2:])}"
        )
    if ("initial_h" in arrays) != ("initial_c" in arrays):
        raise InputError(f"{path} has one of initial_h and initial_c; save both")
    strange = [
        n for n, a in arrays.items() if a.dtype.kind not in ("iu" if n == "lengths" else "f")
    ]
    if strange or any(array.size == 0 for array in arrays.values()):
        kinds = ", ".join(f"{n} {a.dtype} of shape {a.shape}" for n, a in arrays.items())
        raise InputError(
            f"{path} holds {kinds}; save floating point numbers, integers for lengths, and at "
            "least one of each"
        )
    recording = Recording(**arrays)
    if recording.x.ndim != 3 or recording.output.ndim not in (2, 3):
        raise InputError(
            f"{path}: x has shape {recording.x.shape} and output {recording.output.shape}; pass "
            "(N, T, D) or (T, N, D), and an output with the same axes, or (N, features)"
        )
    return recording


def compare_recording(
    model: BNLSTM | BNLSTMModel, recording: Recording, *, states: bool = True
) -> Agreement:
    """Run a model in float64 and float32 and compare it with a recording.

    Outputs recorded in float64 may be off by 1e-9 of their magnitude; those in float32 by 4 times
    the error that the model itself makes in float32. No file tells the order of the axes, so each
    order that the shapes allow is tried, and so is each arrangement of final states.

    Args:
        model: The model.
        recording: The recording.
        states: Whether final states are compared, and not the output alone.

    Raises:
        InputError: The recording's shapes fit the model in no order.
    """
    if not states:
        names = ("h_n", "c_n", "h_n_fp64", "c_n_fp64")
        recording = replace(recording, **dict.fromkeys(names))  # type: ignore[arg-type]
    orders = time_major(model, recording)
    return min((compare(model, part, axes) for axes, part in orders), key=lambda a: a.excess)


def time_major(model: BNLSTM | BNLSTMModel, recording: Recording) -> list[tuple[str, Recording]]:
    """Return the recording as time-major, in each order of axes that its shapes allow.

    Raises:
        InputError: They allow none.
    """
    rnn = model.rnn if isinstance(model, BNLSTMModel) else model
    whole = recording.output.ndim == 3
    orders: list[tuple[str, Recording]] = []
    misfits: list[list[str]] = []
    for x_axes, y_axes in itertools.product((BATCH_FIRST, TIME_MAJOR), repeat=2):
        if not whole and x_axes != y_axes:
            continue
        turned: dict[str, Any] = {}
        if x_axes == BATCH_FIRST:
            turned["x"] = recording.x.swapaxes(0, 1)
        if whole and y_axes == BATCH_FIRST:
            for name in ("output", "output_fp64"):
                array = getattr(recording, name)
                turned |= {} if array is None else {name: array.swapaxes(0, 1)}
        part = replace(recording, **turned)
        misfits.append(_misfits(part, rnn))
        if not misfits[-1]:
            axes = f"x {x_axes}" + (f" and output {y_axes}" if whole else "")
            orders.append((axes, part))
    if not orders:
        names = min(misfits, key=len)
        shapes = ", ".join(f"{name} {getattr(recording, name).shape}" for name in names)
        raise InputError(
            f"the recording fits the model in no order of axes: {shapes}, where x is "
            f"{recording.x.shape}, output {recording.output.shape}, and the model takes "
            f"{rnn.input_size} features and has states of {_rows(rnn)} rows of {rnn.hidden_size}"
        )
    return orders


def _misfits(recording: Recording, rnn: BNLSTM) -> list[str]:
    """Return the arrays of a time-major recording that do not fit the others and the model."""
    time, batch, features = recording.x.shape
    leading = (time, batch) if recording.output.ndim == 3 else (batch,)
    found = ["x"] * (features != rnn.input_size)
    found += ["output"] * (recording.output.shape[:-1] != leading)
    rows = (_rows(rnn), batch, rnn.hidden_size)
    for name in ("initial_h", "initial_c", "h_n", "c_n", "lengths"):
        array = getattr(recording, name)
        if array is None:
            continue
        fits = array.shape == ((batch,) if name == "lengths" else rows)
        if name in ("h_n", "c_n"):
            fits = array.size == math.prod(rows)
        found += [] if fits else [name]
    return found


def _rows(rnn: BNLSTM) -> int:
    return rnn.num_layers * rnn.num_directions


def arrangements(state: Array, rows: int, batch: int) -> dict[str, Array]:
    """Return final states as (rows, N, H), in each way that sources arrange them.

    Args:
        state: Of rows * N * H numbers.
        rows: num_layers * num_directions.
        batch: N.

    Returns:
        By what the arrangement is in words: first ours, if the shape allows it.
    """
    size = state.size // (rows * batch)
    shapes = {
        OURS: ((rows, batch, size), False),
        "(N, layers * directions, H)": ((batch, rows, size), True),
        "(N, layers * directions * H)": ((batch, rows * size), True),
    }
    found = {
        words: state.reshape(batch, rows, size).swapaxes(0, 1)
        if by_stream
        else state.reshape(rows, batch, size)
        for words, (shape, by_stream) in shapes.items()
        if state.shape == shape
    }
    if rows > 1 and state.shape == (rows, batch, size):  # a view of the wrong shape
        found["the rows of each stream together"] = state.reshape(batch, rows, size).swapaxes(0, 1)
    return found


def compare(model: BNLSTM | BNLSTMModel, recording: Recording, axes: str) -> Agreement:
    """Compare a model with a time-major recording; see `compare_recording`.

    Raises:
        InputError: A recorded output has a shape that the model does not give.
    """
    truth = _run(model, recording, torch.float64)
    own = _run(model, recording, torch.float32)
    errors: dict[str, float] = {}
    allowed: dict[str, float] = {}
    for name, array in recording.values():
        recorded = array
        if name != "output":
            words, recorded = _arranged(name, array, truth[name][0])
            axes += "" if words == OURS else f", {name} as {words}"
        fitting = [n for n, v in enumerate(truth[name]) if v.shape == recorded.shape]
        if not fitting:
            shapes = " or ".join(str(value.shape) for value in truth[name])
            raise InputError(f"the recorded {name} is {recorded.shape}, the model's {shapes}")
        expected, rounded = truth[name][fitting[0]], own[name][fitting[0]]
        valid = _valid(recording, name)
        magnitude = max(float(np.abs(expected).max(initial=0)), float(np.finfo(np.float32).tiny))
        key = f"{name} ({recorded.dtype})"
        errors[key] = float(np.abs(recorded - expected)[valid].max(initial=0))
        own_error = float(np.abs(rounded - expected)[valid].max(initial=0))
        allowed[key] = max(FLOAT32_RATIO * own_error, FLOAT32_FLOOR * magnitude)
        if recorded.dtype == np.float64:
            allowed[key] = FLOAT64_LIMIT * magnitude
    return Agreement(axes, errors, allowed)


def _arranged(name: str, recorded: Array, expected: Array) -> tuple[str, Array]:
    """Return a final state in the arrangement that is nearest to ours, and which that is.

    Raises:
        InputError: Its shape is that of none.
    """
    ways = arrangements(recorded, *expected.shape[:2])
    if not ways:
        raise InputError(
            f"the recorded {name} has shape {recorded.shape}, the model's {expected.shape}, of "
            "which that is no known arrangement"
        )
    return min(ways.items(), key=lambda way: float(np.abs(way[1] - expected).max(initial=0)))


def _valid(recording: Recording, name: str) -> Any:  # noqa: ANN401
    """Return what is to be compared, as an index: sources differ in what follows a stream's end."""
    if name != "output" or recording.lengths is None or recording.output.ndim != 3:
        return ...
    return np.arange(len(recording.x))[:, None] < recording.lengths


@torch.no_grad()
def _run(
    model: BNLSTM | BNLSTMModel, recording: Recording, dtype: torch.dtype
) -> dict[str, list[Array]]:
    """Return the outputs of the recurrent layers and of the head, time-major, and the states."""
    model = copy.deepcopy(model).to(dtype)
    rnn = model.rnn if isinstance(model, BNLSTMModel) else model
    rnn.batch_first = False
    state = None
    if recording.initial_h is not None and recording.initial_c is not None:
        h, c = (torch.from_numpy(a).to(dtype) for a in (recording.initial_h, recording.initial_c))
        state = (h, c)
    lengths = None if recording.lengths is None else torch.from_numpy(recording.lengths)
    input = torch.from_numpy(np.ascontiguousarray(recording.x)).to(dtype)
    output, (h, c) = rnn(input, state, lengths=lengths)
    outputs = [output]
    if isinstance(model, BNLSTMModel):
        outputs.insert(0, model(input, state, lengths=lengths)[0])
    return {
        "output": [tensor.double().numpy() for tensor in outputs],
        "h_n": [h.double().numpy()],
        "c_n": [c.double().numpy()],
    }
