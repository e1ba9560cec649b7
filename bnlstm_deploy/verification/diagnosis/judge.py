"""Finds what is wrong of one node: its inputs, an intermediate of a timestep, its results.

A node is judged by its own inputs. At each timestep the equations are computed in float64 from the
x, h and c that the graph itself held there, so an error that was passed on is none.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.folding import FoldedDirection
from bnlstm_deploy.folding.folded import reverse_valid
from bnlstm_deploy.signature import Array
from bnlstm_deploy.verification.diagnosis.intermediates import (
    AFFINE,
    CELL,
    GATES,
    HIDDEN_PRODUCT,
    INPUT_PRODUCT,
    OUTPUT,
    NodeValues,
)
from bnlstm_deploy.verification.diagnosis.origin import Origin, origin_of
from bnlstm_deploy.verification.diagnosis.places import Place
from bnlstm_deploy.verification.diagnosis.recompute import (
    Rounding,
    StepInputs,
    Value,
    exact,
    recompute,
)
from bnlstm_deploy.verification.diagnosis.surroundings import Call

LSTM_OPERATOR = "lstm operator"
"""Stands for all intermediates of a node whose body does not show them."""

LAYER_INPUT, INITIAL_STATE = "layer input", "initial state"
LENGTHS, START_STEP = "lengths", "start step"
PADDING, FINAL_STATE = "output past the length", "final state"
"""What can be wrong of a node, beside the intermediates of its timesteps."""

GraphValues = Callable[[str], Array | None]
"""Gets an intermediate of a node from the graph, (T, N, .); None if it does not show it."""


@dataclass(frozen=True)
class Judge:
    """Judges one node.

    Args:
        place: Its layer and direction.
        direction: The fold that it should be, in float64.
        own: What the graph held at it, the cells among its intermediates if it shows them.
        call: What the BNLSTM should be called with.
        x: What should go into the layer, not reversed, and its bound, (T, N, D).
        rounding: What may differ because of the graph's dtype.
    """

    place: Place
    direction: FoldedDirection
    own: NodeValues
    call: Call
    x: Value
    rounding: Rounding

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,), as the node gets them."""
        given = self.own.inputs.get("lengths", np.array([self.time]))
        return np.broadcast_to(np.minimum(given.astype(np.int64), self.time), (self.batch,))

    @property
    def start(self) -> NDArray[np.int64]:
        """(N,), as the node gets it."""
        given = self.own.inputs.get("start_step", np.array([0])).astype(np.int64)
        return np.broadcast_to(given, (self.batch,))

    @property
    def time(self) -> int:
        """T."""
        return len(self.own.y)

    @property
    def batch(self) -> int:
        """N."""
        return int(self.own.y.shape[1])

    def origins(self, values: GraphValues) -> Iterator[Origin]:
        """Yield what is wrong of the node, in the order in which it computes.

        Args:
            values: Gets intermediates of the node from the graph; called only once a timestep is
                known to be wrong.
        """
        yield from self._inputs()
        found = self._first_timestep()
        if found is not None:
            t, coarse = found
            fine = self._within(t, values) or coarse
            length = int(self.lengths[fine.stream])
            yield replace(
                fine,
                step=t,
                position=length - 1 - t if self.place.reverse else t,
                row=int(self._row(t)[fine.stream]),
            )
        yield from self._results()

    def _inputs(self) -> Iterator[Origin]:
        own, call = self.own, self.call
        valid = (np.arange(self.time)[:, None] < call.lengths)[:, :, None]
        value, bound = (
            (reverse_valid(part, call.lengths) for part in self.x) if self.place.reverse else self.x
        )
        if own.inputs["X"].shape == value.shape:
            given = np.where(valid, own.inputs["X"], 0)  # padding must not matter
            wanted = Value(np.where(valid, value, 0), np.where(valid, bound, 0))
            yield from origin_of(
                LAYER_INPUT, _streams_first(wanted), given.swapaxes(0, 1), self.place
            )
        for name, state in (("initial_h", call.h), ("initial_c", call.c)):
            expected = state[self.place.row]
            bound = self.rounding.eps * np.abs(expected)
            given = np.broadcast_to(own.inputs[name], expected.shape)
            yield from origin_of(INITIAL_STATE, Value(expected, bound), given, self.place)
        for kind, integers, given in (
            (LENGTHS, call.lengths, self.lengths),
            (START_STEP, call.step, self.start),
        ):
            yield from origin_of(kind, exact(integers), given, self.place)

    def _first_timestep(self) -> tuple[int, Origin] | None:
        """Find the first timestep whose cell or output is off."""
        cells = self.own.inner.get(CELL)
        c = exact(self._initial("initial_c"))
        for t in range(int(self.lengths.max(initial=0))):
            step = recompute(self.direction, self._before(t, c), self.rounding)
            expected = {CELL: step.cell, OUTPUT: step.output}
            if cells is None:  # then the last one is all there is
                ends = np.equal(self.lengths - 1, t)[:, None]
                actual = {
                    CELL: np.where(ends, self.own.y_c, step.cell.value),
                    OUTPUT: self.own.y[t],
                }
                c = step.cell
            else:
                actual = {CELL: cells[t], OUTPUT: self.own.y[t]}
                c = exact(cells[t])
                expected[OUTPUT] = self._output_of(t, step.gates, c)
            for kind, given in actual.items():
                name = LSTM_OPERATOR if cells is None else kind
                wanted = self._valid(t, expected[kind], given)
                found = next(origin_of(name, wanted, given, self.place), None)
                if found is not None:
                    return t, found
        return None

    def _within(self, t: int, values: GraphValues) -> Origin | None:
        """Find the intermediate of a timestep that is wrong."""
        cells = self.own.inner.get(CELL)
        if cells is None:
            return None
        c = exact(self._initial("initial_c") if t == 0 else cells[t - 1])
        step = recompute(self.direction, self._before(t, c), self.rounding)

        def at(kind: str) -> Value | None:
            array = values(kind)
            return None if array is None else exact(array[t])

        x = at(INPUT_PRODUCT) or step.input_product
        h = at(HIDDEN_PRODUCT)
        gates = at(GATES) or step.gates
        cell = at(CELL) or step.cell
        affine = at(AFFINE)
        scaled = self.direction.cell_scale[self._row(t)], self.direction.cell_shift[self._row(t)]
        # A Gemm has the hidden product only in the gates; without an affine map the cell is it.
        checks = [
            (INPUT_PRODUCT, step.input_product, x),
            (HIDDEN_PRODUCT, step.hidden_product, h),
            (
                HIDDEN_PRODUCT if h is None else GATES,
                self.rounding.sum(x, step.hidden_product if h is None else h),
                gates,
            ),
            (CELL, self.rounding.cell(gates, c), cell),
            (AFFINE, self.rounding.affine(cell, *scaled), affine),
            (OUTPUT, self._output_of(t, gates, cell, affine), exact(self.own.y[t])),
        ]
        for kind, expected, actual in checks:
            if actual is None:
                continue
            wanted = self._valid(t, expected, actual.value)
            found = next(origin_of(kind, wanted, actual.value, self.place), None)
            if found is not None:
                return found
        return None

    def _results(self) -> Iterator[Origin]:
        """Y past the lengths, and the final states."""
        own, lengths = self.own, self.lengths
        past = np.arange(self.time)[:, None] >= lengths
        padding = np.where(past[:, :, None], own.y, 0).swapaxes(0, 1)
        yield from origin_of(PADDING, exact(np.zeros(padding.shape)), padding, self.place)
        last = np.maximum(lengths - 1, 0)
        streams = np.arange(self.batch)
        started = (lengths > 0)[:, None]
        sequences = {"initial_h": own.y, "initial_c": own.inner.get(CELL)}
        for (name, sequence), final in zip(sequences.items(), (own.y_h, own.y_c), strict=True):
            if sequence is not None:
                expected = np.where(started, sequence[last, streams], self._initial(name))
                yield from origin_of(FINAL_STATE, exact(expected), final, self.place)

    def _initial(self, name: str) -> Array:
        shape = (self.batch, self.direction.hidden_size)
        return np.broadcast_to(self.own.inputs[name], shape)

    def _row(self, t: int) -> NDArray[np.int64]:
        rows = self.direction.rows[np.minimum(self.start + t, self.direction.steps - 1)]
        return rows.astype(np.int64)

    def _before(self, t: int, c: Value) -> StepInputs:
        h = self._initial("initial_h") if t == 0 else self.own.y[t - 1]
        x = self.own.inputs["X"][t].astype(np.float64)
        return StepInputs(x, exact(h), c, self._row(t))

    def _output_of(self, t: int, gates: Value, c: Value, affine: Value | None = None) -> Value:
        k, d = self._row(t), self.direction
        scaled = affine or self.rounding.affine(c, d.cell_scale[k], d.cell_shift[k])
        return self.rounding.output(gates, scaled)

    def _valid(self, t: int, expected: Value, actual: NDArray[np.generic]) -> Value:
        """What a stream holds past its length is not judged: take it as it is."""
        valid = (t < self.lengths)[:, None]
        value = np.where(valid, expected.value, actual.astype(np.float64))
        return Value(value, np.broadcast_to(expected.bound, value.shape))


def _streams_first(value: Value) -> Value:
    return Value(value.value.swapaxes(0, 1), value.bound.swapaxes(0, 1))


def layer_input(
    outputs: Mapping[Place, NodeValues], place: Place, lengths: NDArray[np.int64]
) -> Value:
    """Return what a layer above the first gets of the outputs of the one below, (T, N, .)."""
    below = [p for p in outputs if p.path == place.path and p.layer == place.layer - 1]
    return exact(joined({p: outputs[p] for p in below}, lengths))


def joined(layer: Mapping[Place, NodeValues], lengths: NDArray[np.int64]) -> Array:
    """Return the output of a layer, (T, N, num_directions * H), from those of its directions."""
    ordered = sorted(layer.items(), key=lambda item: item[0].row)
    outputs = [
        reverse_valid(own.y, lengths) if place.reverse else own.y  # type: ignore[arg-type]
        for place, own in ordered
    ]
    return np.concatenate(outputs, axis=2)
