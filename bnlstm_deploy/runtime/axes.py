"""Which axes of a model's inputs and outputs are the batch and time.

Dynamic axes have those names. A graph unrolled for T timesteps has the number T in the place of
time, and so may other axes: the file's metadata tell which, and else files for several lengths.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bnlstm_deploy.runtime.inputs import Array, Value
from bnlstm_deploy.runtime.session import Session

BATCH, TIME = "batch", "time"


@dataclass(frozen=True)
class Axes:
    """The own inputs and outputs of one model, with batch and time by name."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    certain: bool
    """Whether all time axes are known. If not, those that may be time have their fixed size."""

    def sizes(self, feeds: Mapping[str, Array]) -> dict[str, int]:
        """Return the sizes of the batch and time in arrays that fit the inputs."""
        return {
            str(axis): size
            for value in self.inputs
            for axis, size in zip(value.shape, feeds[value.name].shape, strict=True)
            if axis in (BATCH, TIME)
        }


def sized(value: Value, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of a value for sizes of the batch and time."""
    return tuple(a if isinstance(a, int) else sizes[str(a)] for a in value.shape)


def find_axes(sessions: Sequence[Session]) -> Axes:
    """Find the axes of one model from its files: one with dynamic time, or unrolled ones.

    Args:
        sessions: The files; if unrolled, each for another length.
    """
    lengths = [session.metadata.length for session in sessions]
    inputs = [_named([s.inputs[i] for s in sessions], lengths) for i in _range(sessions[0].inputs)]
    outputs = [
        _named([s.outputs[i] for s in sessions], lengths) for i in _range(sessions[0].outputs)
    ]
    if len(sessions) > 1 or lengths[0] is None:
        return Axes(tuple(inputs), tuple(outputs), certain=True)
    metadata = sessions[0].metadata
    if metadata.pads:
        own, results = (
            tuple(_with_time(value, metadata.time_axes) for value in values)
            for values in (sessions[0].inputs, sessions[0].outputs)
        )
        return Axes(own, results, certain=True)
    return Axes(sessions[0].inputs, sessions[0].outputs, certain=False)


def _with_time(value: Value, axes: Mapping[str, int]) -> Value:
    shape = list(value.shape)
    if value.name in axes:
        shape[axes[value.name]] = TIME
    return value._replace(shape=tuple(shape))


def _named(values: Sequence[Value], lengths: Sequence[int | None]) -> Value:
    """Return the first of several files' values, with the name of time where theirs differ."""
    shape = list(values[0].shape)
    for axis in range(len(shape)):
        if None not in lengths and [value.shape[axis] for value in values] == list(lengths):
            shape[axis] = TIME
    return values[0]._replace(shape=tuple(shape))


def _range(values: Sequence[Value]) -> range:
    return range(len(values))
