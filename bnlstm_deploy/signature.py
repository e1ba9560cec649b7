"""What a model takes and gives, by name: its own inputs and outputs, states, lengths and steps.

A session has the signature of its file, a client that of a server's model; whatever runs a model,
puts requests together or cuts them apart goes by it. Neither torch nor ONNX Runtime is imported.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.dtypes import PROTOCOL
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.metadata import (
    CARRIED,
    NO_LENGTH,
    REQUIRED,
    Metadata,
    RecurrentLayers,
    value_name,
)
from bnlstm_deploy.state import State

Array = NDArray[np.generic]

BATCH, TIME = "batch", "time"
"""The names of dynamic axes: that of the streams, and that of the timesteps."""

STREAM_AXES = {"initial_h": 1, "initial_c": 1, "h_n": 1, "c_n": 1} | dict.fromkeys(
    ("lengths", "start_step", "next_step"), 0
)
"""Where the streams are in states, lengths and steps."""

States = State | Mapping[str, State]
"""The state of a model's only BNLSTM, or of several by module path."""

Lengths = NDArray[np.int64] | Mapping[str, NDArray[np.int64]]
"""(N,) valid timesteps; of a model with several BNLSTM by module path."""


class Value(NamedTuple):
    """An input or output."""

    name: str
    dtype: np.dtype[np.generic] | None
    """None for a type that no exported graph has."""
    shape: tuple[int | str | None, ...]
    """A fixed size, or the name of a dynamic axis."""

    @property
    def datatype(self) -> str:
        """Its type in the Open Inference Protocol."""
        return "FP32" if self.dtype is None else PROTOCOL[self.dtype]

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape for sizes of the batch and time."""
        return tuple(a if isinstance(a, int) else sizes[str(a)] for a in self.shape)

    def absent(self) -> Array:
        """Return what leaving an optional input out means: state 0, step 0, and no length."""
        fill = NO_LENGTH if self.name.rpartition(".")[2] == "lengths" else 0
        return np.full(
            [axis if isinstance(axis, int) else 1 for axis in self.shape], fill, self.dtype
        )

    def described(self) -> dict[str, Any]:
        """Return what the Open Inference Protocol says of it; -1 is a dynamic axis."""
        shape = [axis if isinstance(axis, int) else -1 for axis in self.shape]
        return {"name": self.name, "datatype": self.datatype, "shape": shape}


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model."""

    inputs: tuple[Value, ...]
    """The model's own, in order."""
    state_inputs: tuple[Value, ...]
    """Those that may be left out: initial states, lengths, start steps."""
    outputs: tuple[Value, ...]
    """The model's own, in order."""
    state_outputs: tuple[Value, ...]
    """Final states and next steps."""
    modules: tuple[str, ...]
    """Module paths of the BNLSTM; "" for the only one."""
    whole: Mapping[str, str] = field(default_factory=dict)
    """Why streams cannot be continued in chunks, by the module that cannot."""
    length: int | None = None
    """T if the graph is for one number of timesteps only."""
    fixed_time_axes: Mapping[str, int] = field(default_factory=dict)
    """The time axes of such a graph's own inputs and outputs, as far as they are known."""
    pads: bool = False
    """Whether padding time, and passing `lengths`, leaves the valid part of outputs the same."""
    step_bytes: int = 0
    """Bytes that function bodies hold for a timestep of a stream, beside inputs and outputs."""

    @classmethod
    def of(
        cls,
        inputs: Sequence[Value],
        optional: Sequence[Value],
        outputs: Sequence[Value],
        metadata: Metadata,
    ) -> "Signature":
        """Return that of a file.

        Args:
            inputs: Those that have no default.
            optional: Those that have one.
            outputs: All.
            metadata: What the file says of itself.
        """
        modules = tuple(entry.name for entry in metadata.layers)
        states = {value_name(module, kind) for module in modules for kind in CARRIED.values()}
        lengths = {value_name(module, "lengths") for module in modules}
        if metadata.state == REQUIRED:  # a Session passes them
            taken = lengths | {value_name(module, kind) for module in modules for kind in CARRIED}
            optional = [*optional, *(value for value in inputs if value.name in taken)]
            inputs = [value for value in inputs if value.name not in taken]
        return cls(
            tuple(inputs),
            tuple(optional),
            tuple(value for value in outputs if value.name not in states),
            tuple(value for value in outputs if value.name in states),
            modules,
            whole={entry.name: _why_whole(entry) for entry in metadata.layers if not entry.streams},
            length=metadata.length,
            fixed_time_axes=metadata.time_axes,
            pads=metadata.pads and lengths <= {value.name for value in optional},
            step_bytes=max(_step_bytes(entry, metadata.dtype) for entry in metadata.layers),
        )

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of all inputs."""
        return frozenset(value.name for value in (*self.inputs, *self.state_inputs))

    @cached_property
    def lengths(self) -> tuple[str, ...]:
        """The optional inputs for lengths."""
        return self._optional("lengths")

    @cached_property
    def start_steps(self) -> tuple[str, ...]:
        """The optional inputs for start steps."""
        return self._optional("start_step")

    @cached_property
    def carried(self) -> dict[str, str]:
        """The optional inputs that continue a stream, and the outputs that they come from."""
        taken = {value.name for value in self.state_inputs}
        pairs = {
            value_name(module, into): value_name(module, out)
            for module in self.modules
            for into, out in CARRIED.items()
        }
        return {into: out for into, out in pairs.items() if into in taken}

    @property
    def streams(self) -> bool:
        """Whether streams can be continued in chunks."""
        return not self.whole and len(self.carried) == len(CARRIED) * len(self.modules)

    @cached_property
    def batch_axes(self) -> dict[str, int]:
        """The axis of the streams of each input and output that has one."""
        axes = {
            value_name(module, kind): axis
            for module in self.modules
            for kind, axis in STREAM_AXES.items()
        }
        own = (*self.inputs, *self.outputs)
        return axes | {
            value.name: value.shape.index(BATCH) for value in own if BATCH in value.shape
        }

    @cached_property
    def time_axes(self) -> dict[str, int]:
        """The axis of the timesteps of each own input and output of which it is known."""
        own = (*self.inputs, *self.outputs)
        named = {value.name: value.shape.index(TIME) for value in own if TIME in value.shape}
        return {**self.fixed_time_axes, **named}

    def sizes(self, feeds: Mapping[str, Array]) -> dict[str, int]:
        """Return the sizes of the batch and time in arrays that fit the own inputs."""
        return {
            str(axis): size
            for value in self.inputs
            for axis, size in zip(value.shape, feeds[value.name].shape, strict=True)
            if axis in (BATCH, TIME)
        }

    def run_bytes(self, batch: int, time: int) -> int:
        """Return how many bytes a run takes at once, about: the native kernel takes fewer.

        Args:
            batch: N.
            time: T.
        """
        return sum(
            size * (batch if BATCH in axes else 1) * (time if TIME in axes else 1)
            for axes, size in self._bytes_by_axes.items()
        )

    @cached_property
    def _bytes_by_axes(self) -> dict[frozenset[str], int]:
        """The bytes of a run that grow with none, one or both of the batch and time."""
        by_axes: Counter[frozenset[str]] = Counter({frozenset((BATCH, TIME)): self.step_bytes})
        for value in (*self.inputs, *self.outputs, *self.state_outputs):
            if value.dtype is not None:
                fixed = math.prod(axis for axis in value.shape if isinstance(axis, int))
                axes = frozenset(axis for axis in value.shape if axis in (BATCH, TIME))
                by_axes[axes] += fixed * value.dtype.itemsize
        return dict(by_axes)

    def feeds(
        self, *inputs: Array, state: States | None = None, lengths: Lengths | None = None
    ) -> dict[str, Array]:
        """Return the arguments of a call as arrays by input name.

        Raises:
            InputError: Their number is wrong, or the model does not take a state or lengths.
        """
        if len(inputs) != len(self.inputs):
            own = [value.name for value in self.inputs]
            raise InputError(f"{len(inputs)} inputs given; this model takes {own}")
        feeds = {value.name: array for value, array in zip(self.inputs, inputs, strict=True)}
        feeds |= self.state_feeds(state)
        for module, valid in self._by_module(lengths, "lengths").items():
            feeds[self._taken(value_name(module, "lengths"))] = valid
        return feeds

    def state_feeds(self, state: States | None) -> dict[str, Array]:
        """Return a state as arrays by input name; nothing for None.

        Raises:
            InputError: It is of other modules, or given to a model that cannot continue streams.
        """
        feeds: dict[str, Array] = {}
        for module, given in self._by_module(state, "state").items():
            if not isinstance(given, State):
                raise InputError(
                    f"the state is a {type(given).__name__}; pass the State that the call before "
                    "returned, or State(h, c, step): h and c alone do not say which statistics are "
                    "next"
                )
            if given.step is None or module in self.whole:
                why = self.whole.get(
                    module, "a model that cannot be continued: the state has no step"
                )
                raise InputError(
                    f"a state is given to {why}. Pass whole sequences; an initial state goes in "
                    "with run({..., 'initial_h': h, 'initial_c': c})"
                )
            for kind, array in zip(CARRIED, (given.h, given.c, given.step), strict=True):
                feeds[self._taken(value_name(module, kind))] = array
        return feeds

    def output(self, results: Mapping[str, Array]) -> Any:  # noqa: ANN401
        """Return the model's own output, an array or a tuple, out of arrays by output name."""
        output = tuple(results[value.name] for value in self.outputs)
        return output[0] if len(output) == 1 else output

    def state(self, results: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Return the State, or that of each BNLSTM by module path, out of arrays by output name."""
        states = {}
        for module in self.modules:
            names = (value_name(module, kind) for kind in CARRIED.values())
            h, c, step = (results.get(name) for name in names)
            states[module] = State(h, c, step)  # type: ignore[arg-type]
        return states.get("", states)

    def initial(
        self, run: Callable[[Mapping[str, Array]], Mapping[str, Array]]
    ) -> dict[str, Array]:
        """Return what one stream starts from, by the name of the optional input that takes it.

        Initial states may have been trained: they are what a run over no valid timestep leaves.

        Args:
            run: Runs the model: arrays by input name to arrays by output name.

        Returns:
            (num_layers * num_directions, 1, H) and (1,); of models without `lengths` steps alone.
        """
        initial: dict[str, Array] = {name: np.zeros(1, np.int64) for name in self.start_steps}
        if not self.lengths:
            return initial
        feeds: dict[str, Array] = {
            value.name: np.zeros([a if isinstance(a, int) else 1 for a in value.shape], value.dtype)
            for value in self.inputs
        }
        results = run({**feeds, **{name: np.zeros(1, np.int64) for name in self.lengths}})
        states = {into: results[out] for into, out in self.carried.items() if into not in initial}
        return initial | states

    def _optional(self, kind: str) -> tuple[str, ...]:
        taken = {value.name for value in self.state_inputs}
        names = (value_name(module, kind) for module in self.modules)
        return tuple(name for name in names if name in taken)

    def _taken(self, name: str) -> str:
        if name not in self.names:
            raise InputError(
                f"the graph has no input {name!r}: the exported model passes that to its BNLSTM "
                "itself, or cannot continue streams; pass whole sequences"
            )
        return name

    def _by_module(self, given: object, what: str) -> Mapping[str, Any]:
        """Return states or lengths by module path; a model with one BNLSTM has the path ""."""
        if given is None:
            return {}
        by_module = given if isinstance(given, Mapping) else {"": given}
        unknown = by_module.keys() - set(self.modules)
        if unknown:
            raise InputError(
                f"{what} is given for {sorted(unknown)}; the model's BNLSTM are "
                f"{sorted(self.modules)}, pass a dict with {what} for each"
            )
        return by_module


def common(signatures: Sequence[Signature]) -> Signature | None:
    """Return the signature of one model from those of its files, with time by its name.

    A graph unrolled for T timesteps has the number T in the place of time, and so may other axes:
    the file's metadata tell which, and else files for several lengths.

    Args:
        signatures: Those of the files; if unrolled, each for another length.

    Returns:
        The signature, or None if it cannot be told which axes are time.
    """
    first = signatures[0]
    if first.length is None:
        return first
    if len(signatures) > 1:
        lengths = [signature.length for signature in signatures]
        inputs, outputs = (
            tuple(_varying(values, lengths) for values in zip(*groups, strict=True))
            for groups in ([s.inputs for s in signatures], [s.outputs for s in signatures])
        )
    elif first.pads:
        inputs, outputs = (
            tuple(_with_time(value, first.time_axes.get(value.name)) for value in values)
            for values in (first.inputs, first.outputs)
        )
    else:
        return None
    return replace(first, inputs=inputs, outputs=outputs, length=None)


def _with_time(value: Value, axis: int | None) -> Value:
    shape = tuple(TIME if number == axis else size for number, size in enumerate(value.shape))
    return value._replace(shape=shape)


def _varying(values: Sequence[Value], lengths: Sequence[int | None]) -> Value:
    """Return the first of several files' values, with the name of time where theirs differ."""
    sizes = zip(*(value.shape for value in values), strict=True)
    shape = tuple(TIME if list(of_files) == lengths else of_files[0] for of_files in sizes)
    return values[0]._replace(shape=shape)


def _step_bytes(layers: RecurrentLayers, dtype: str) -> int:
    """Return the bytes that a function body holds for a timestep of a stream.

    The input's product, the same scaled, and with its bias: 4H each; the output of the layer below;
    and of a reverse direction the reversed input and output.
    """
    width = layers.num_directions * layers.hidden_size
    numbers = 3 * 4 * layers.hidden_size
    if layers.num_layers > 1:
        numbers += width
    if layers.num_directions == 2:
        numbers += 2 * (width if layers.num_layers > 1 else layers.input_size)
    return numbers * (8 if dtype == "float64" else 4)


def _why_whole(layers: RecurrentLayers) -> str:
    if layers.num_directions == 2:
        return (
            "a model with two directions, which cannot continue a stream: its reverse direction "
            "starts at the end"
        )
    return (
        "a graph with materialized weights, which cannot continue a stream: they belong to "
        "timesteps from step 0 on. To stream, export with folding='factored'"
    )
