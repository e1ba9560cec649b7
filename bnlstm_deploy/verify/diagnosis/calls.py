"""Known mistakes in how the layers are run, as a table of names and functions."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from bnlstm_deploy.fold import FoldedDirection, FoldedLSTM
from bnlstm_deploy.fold.folded import FloatArray, IntArray, reverse_valid


class Arguments(NamedTuple):
    """What a stack of layers is run with."""

    h: FloatArray
    """(num_layers * num_directions, N, H)."""
    c: FloatArray
    """Likewise."""
    lengths: IntArray
    """(N,)."""
    step: IntArray
    """(N,)."""


class RunDirection(Protocol):
    """`FoldedDirection.run`, or the same with a mistake."""

    def __call__(
        self,
        direction: FoldedDirection,
        x: FloatArray,
        h: FloatArray,
        c: FloatArray,
        lengths: IntArray,
        step: IntArray,
        /,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the output (T, N, H), and the final h and c."""
        ...


Turn = Callable[[FloatArray, IntArray], FloatArray]
"""Turns a sequence (T, N, F) around, whose streams have lengths (N,)."""


def _unchanged(arguments: Arguments, time: int) -> Arguments:
    del time
    return arguments


@dataclass(frozen=True, eq=False)
class AlteredLSTM(FoldedLSTM):
    """A stack of layers that is run with a mistake."""

    before: Callable[[Arguments, int], Arguments] = _unchanged
    """Changes the arguments; gets T, too."""
    turn: Turn = reverse_valid
    """Into a reverse direction."""
    turn_back: Turn = reverse_valid
    """Out of it."""
    run_direction: RunDirection = FoldedDirection.run

    def run(
        self,
        x: FloatArray,
        state: tuple[FloatArray, FloatArray] | None = None,
        *,
        lengths: IntArray | None = None,
        step: int | IntArray = 0,
    ) -> tuple[FloatArray, tuple[FloatArray, FloatArray]]:
        """Run the layers; arguments and results are those of `FoldedLSTM.run`."""
        assert state is not None
        time, batch, _ = x.shape
        ends = np.full(batch, time) if lengths is None else np.asarray(lengths)
        steps = np.broadcast_to(np.asarray(step), (batch,))
        given = self.before(Arguments(*state, ends, steps), time)
        hs: list[FloatArray] = []
        cs: list[FloatArray] = []
        for layer in self.layers:
            outputs = []
            for reverse, direction in enumerate(layer):
                sequence = self.turn(x, given.lengths) if reverse else x
                start = (given.h[len(hs)], given.c[len(cs)])
                y, h, c = self.run_direction(direction, sequence, *start, given.lengths, given.step)
                outputs.append(self.turn_back(y, given.lengths) if reverse else y)
                hs.append(h)
                cs.append(c)
            x = np.concatenate(outputs, axis=2)
        return x, (np.stack(hs), np.stack(cs))


@dataclass(frozen=True)
class CallAlteration:
    """A mistake in how the layers of one BNLSTM are run."""

    name: str
    make: Callable[[FoldedLSTM], FoldedLSTM | None]
    """Returns the layers with the mistake; None where it cannot be made."""


def _with_arguments(name: str, before: Callable[[Arguments, int], Arguments]) -> CallAlteration:
    return CallAlteration(name, lambda fold: AlteredLSTM(fold.layers, before=before))


def _with_turns(
    name: str, turn: Turn = reverse_valid, back: Turn = reverse_valid
) -> CallAlteration:
    def make(fold: FoldedLSTM) -> FoldedLSTM | None:
        if fold.num_directions == 1:
            return None
        return AlteredLSTM(fold.layers, turn=turn, turn_back=back)

    return CallAlteration(name, make)


def _with_run(name: str, run: RunDirection) -> CallAlteration:
    return CallAlteration(name, lambda fold: AlteredLSTM(fold.layers, run_direction=run))


def _as_it_is(sequence: FloatArray, lengths: IntArray) -> FloatArray:
    del lengths
    return sequence


def _with_padding(sequence: FloatArray, lengths: IntArray) -> FloatArray:
    del lengths
    return sequence[::-1]


def _directions_swapped(fold: FoldedLSTM) -> FoldedLSTM | None:
    if fold.num_directions == 1:
        return None
    return FoldedLSTM(tuple(layer[::-1] for layer in fold.layers))


def _final_of_the_last_timestep(*, h_too: bool, c_too: bool) -> RunDirection:
    """Hold no h, no c or neither past the length."""

    def run(
        direction: FoldedDirection,
        x: FloatArray,
        h: FloatArray,
        c: FloatArray,
        lengths: IntArray,
        step: IntArray,
        /,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        output, *valid = direction.run(x, h, c, lengths, step)
        _, *last = direction.run(x, h, c, np.full_like(lengths, len(x)), step)
        return output, (valid, last)[h_too][0], (valid, last)[c_too][1]

    return run


def _output_past_the_length(*, hold: bool) -> RunDirection:
    """Do not blank the output past the length; c is held there, or goes on."""

    def run(
        direction: FoldedDirection,
        x: FloatArray,
        h: FloatArray,
        c: FloatArray,
        lengths: IntArray,
        step: IntArray,
        /,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        _, *final = direction.run(x, h, c, lengths, step)
        output = np.zeros((*x.shape[:2], direction.hidden_size))
        for t in range(len(x)):
            y, h, c_new = direction.run(x[t : t + 1], h, c, np.ones_like(lengths), step + t)
            c = np.where((t < lengths)[:, None] | (not hold), c_new, c)
            output[t] = y[0]
        return output, final[0], final[1]

    return run


CALL_ALTERATIONS = (
    _with_arguments(
        "lengths ignored", lambda a, time: a._replace(lengths=np.full_like(a.lengths, time))
    ),
    _with_arguments("start_step ignored", lambda a, _: a._replace(step=np.zeros_like(a.step))),
    _with_arguments("start_step counted twice", lambda a, _: a._replace(step=2 * a.step)),
    _with_arguments("initial h and c swapped", lambda a, _: a._replace(h=a.c, c=a.h)),
    _with_arguments(
        "initial state ignored", lambda a, _: a._replace(h=np.zeros_like(a.h), c=np.zeros_like(a.c))
    ),
    _with_arguments("initial h ignored", lambda a, _: a._replace(h=np.zeros_like(a.h))),
    _with_arguments("initial c in the place of initial h", lambda a, _: a._replace(h=a.c)),
    _with_arguments("initial h in the place of initial c", lambda a, _: a._replace(c=a.h)),
    _with_arguments("initial c ignored", lambda a, _: a._replace(c=np.zeros_like(a.c))),
    CallAlteration("directions swapped", _directions_swapped),
    _with_turns("reverse direction not reversed", _as_it_is, _as_it_is),
    _with_turns("output of the reverse direction not turned back", back=_as_it_is),
    _with_turns("reverse direction reversed over the padding, too", _with_padding, _with_padding),
    *(
        _with_run(
            f"final {name} of the last timestep, not of the last valid one",
            _final_of_the_last_timestep(h_too=name != "c", c_too=name != "h"),
        )
        for name in ("state", "h", "c")
    ),
    _with_run("output not 0 past the length", _output_past_the_length(hold=False)),
    _with_run("output not 0 past the length, with c held", _output_past_the_length(hold=True)),
)
"""All mistakes in running a BNLSTM."""


def _float_bits(values: FloatArray, dropped: int) -> FloatArray:
    """Round to float32 without its last `dropped` bits, to the nearest even."""
    bits = values.astype(np.float32).view(np.uint32)
    odd = (bits >> np.uint32(dropped)) & np.uint32(1)
    bits = bits + np.uint32(2 ** (dropped - 1) - 1) + odd
    kept: FloatArray = (bits & np.uint32(2**32 - 2**dropped)).view(np.float32).astype(np.float64)
    return kept


def _to_float16(values: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        rounded: FloatArray = values.astype(np.float16).astype(np.float64)
    return rounded


def _with_operands(rounded: Callable[[FloatArray], FloatArray]) -> RunDirection:
    """Run a direction whose matrix products get rounded operands."""

    def run(
        direction: FoldedDirection,
        x: FloatArray,
        h: FloatArray,
        c: FloatArray,
        lengths: IntArray,
        step: IntArray,
        /,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        coarse = replace(
            direction,
            weight_ih=rounded(direction.weight_ih),
            weight_hh=rounded(direction.weight_hh),
        )
        x = rounded(x)
        output = np.zeros((*x.shape[:2], direction.hidden_size))
        for t in range(len(x)):
            valid = (lengths > t).astype(np.int64)
            y, h_new, c = coarse.run(x[t : t + 1], rounded(h), c, valid, step + t)
            output[t] = y[0]
            h = np.where(valid[:, None], h_new, h)
        return output, h, c

    return run


PRECISIONS = tuple(
    _with_run(f"reduced precision: operands of the matrix products rounded to {name}", run)
    for name, run in (
        ("TF32", _with_operands(lambda values: _float_bits(values, 13))),
        ("float16", _with_operands(_to_float16)),
        ("bfloat16", _with_operands(lambda values: _float_bits(values, 16))),
    )
)
"""Products that are computed with fewer bits, as some hardware does by default."""
