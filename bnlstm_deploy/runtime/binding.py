"""Binding: a session with fixed sizes, whose states stay on the device."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from bnlstm_deploy.errors import InputError, RuntimeSessionError
from bnlstm_deploy.runtime.device import Buffer, using
from bnlstm_deploy.runtime.inputs import check_feeds
from bnlstm_deploy.signature import BATCH, TIME, Array, Lengths, States, Value

if TYPE_CHECKING:
    from bnlstm_deploy.runtime.session import Session

INITIAL = None
"""Instead of a set of states: those that the graph starts from by itself."""


class Binding:
    """Runs N streams, T timesteps at a time, in memory that is allocated once.

        binding = session.bind(batch=4, time=10)
        first = binding(x[:, :10])
        second = binding(x[:, 10:])  # continues the same streams

    Inputs and outputs pass through host memory that is pinned if the device is CUDA. States never
    leave the device: there are two sets of them, and each run reads one and writes the other. A
    run that fails leaves the state as it was.

    Streams of a graph that cannot continue them (two directions, materialized weights) start anew
    with every call.

    Several threads may use a binding; its calls are one stream of calls all the same.

    Args:
        session: The session; `session.bind(batch, time)` is the same.
        batch: N.
        time: T.
        graphs: Where runs are captured as CUDA graphs: numbers for them, distinct for all bindings
            of the session. All calls must then come from one thread.

    Attributes:
        batch: N.
        lock: Held during a call; hold it for several that belong together.
        streams: Whether calls continue streams.
        carried: The state inputs that continue a stream, and the outputs they come from.
        lengths: The inputs for lengths.

    Raises:
        InputError: The graph does not take these sizes.
        RuntimeSessionError: An input or output has a size that is neither fixed, N nor T, or
            memory cannot be allocated.
    """

    def __init__(
        self, session: "Session", batch: int, time: int, *, graphs: Iterator[int] | None = None
    ) -> None:
        length = session.metadata.length
        if batch < 1 or time < 1:
            raise InputError(f"batch {batch} and time {time}; pass at least 1 of each")
        if length is not None and time != length:
            raise InputError(f"time is {time}, and this graph is unrolled for {length} timesteps")
        self.batch = batch
        self.lock = threading.RLock()
        self._session = session
        self._sizes = {"batch": batch, "time": time}
        self._graphs = graphs
        self._runs: dict[tuple[int | None, int], tuple[Any, Any]] = {}
        self._captured: set[tuple[int | None, int]] = set()
        self._current: int | None = INITIAL
        signature = session.signature
        self.carried, self.streams = signature.carried, signature.streams
        self.lengths = signature.lengths
        with using(session.device):
            self._inputs = {value.name: self._buffer(value) for value in session.inputs}
            for name in self.lengths:
                self._inputs[name] = Buffer((batch,), np.dtype(np.int64), session.device)
            for name, array in session.absent.items():
                if name not in self._inputs:
                    buffer = Buffer(array.shape, array.dtype, session.device)
                    buffer.write(array)
                    self._inputs[name] = buffer
            self._outputs = {value.name: self._buffer(value) for value in session.outputs}
            self._states = tuple(
                {v.name: self._buffer(v, staged=False) for v in session.state_outputs}
                for _ in range(2)
            )

    def __call__(
        self,
        *inputs: Array,
        lengths: Lengths | None = None,
    ) -> Array | tuple[Array, ...]:
        """Run the model over the next T timesteps of the N streams.

        Args:
            inputs: The model's own inputs, in order, in the graph's dtypes, with this binding's
                sizes.
            lengths: (N,) int64, 0..T, as for a Session: the valid timesteps of each stream.

        Returns:
            The model's own output, an array or a tuple of several: copies, which later calls leave
            alone.

        Raises:
            InputError: An input or the lengths do not fit the graph or this binding.
            RuntimeSessionError: ONNX Runtime fails on the graph.
        """
        session = self._session
        feeds = session.signature.feeds(*inputs, lengths=lengths)
        check_feeds(feeds, session.signature)
        for name, array in feeds.items():
            if array.shape != self._inputs[name].shape:
                raise InputError(
                    f"{name!r} has shape {array.shape}, this binding is for "
                    f"{self._inputs[name].shape}; bind the session with other sizes for it"
                )
        output: Array | tuple[Array, ...] = session.signature.output(self.run(feeds))
        return output

    @property
    def state(self) -> Any:  # noqa: ANN401
        """A copy of the state after the inputs so far, as a Session returns it; None at first."""
        with self.lock:
            return (
                None
                if self._current is INITIAL
                else self._session.signature.state(self.read_state())
            )

    def set_state(self, state: States) -> None:
        """Continue other streams from here on.

        Args:
            state: A state of N streams, of this binding or of any session with the same model. For
                a model with several BNLSTM, that of each by module path.

        Raises:
            InputError: It does not fit, or the graph cannot continue streams.
        """
        feeds = self._session.signature.state_feeds(state)
        absent = self.carried.keys() - feeds.keys()
        if absent or not self.streams:
            raise InputError(
                f"the state lacks {sorted(absent)}; a binding takes that of all BNLSTM, of a graph "
                "that can continue all of them"
            )
        for name, array in feeds.items():
            buffer = self._states[0][self.carried[name]]
            if (array.shape, array.dtype) != (buffer.shape, buffer.dtype):
                raise InputError(
                    f"{name!r} has shape {array.shape} and is {array.dtype}, this binding takes "
                    f"{buffer.shape} and {buffer.dtype}"
                )
            if array.dtype == np.int64 and array.min() < 0:
                raise InputError(f"{name!r} is {array.min()} for a stream; pass 0 or more")
        self.start(feeds)

    def reset(self) -> None:
        """Let the next call start from the initial state, at step 0."""
        with self.lock:
            self._current = INITIAL

    def start(self, feeds: Mapping[str, Array]) -> None:
        """Let the next run start from state inputs, unchecked; fewer streams are filled with 0.

        Args:
            feeds: All state inputs by name, (layers * directions, N, H) and (N,).
        """
        with self.lock, using(self._session.device):
            for name, array in feeds.items():
                self._states[1][self.carried[name]].write(array)
            self._current = 1

    def run(
        self, feeds: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> dict[str, Array]:
        """Run the graph on unchecked arrays, and keep the state.

        Args:
            feeds: The model's own inputs by name; smaller ones are padded with zeros at the end of
                each axis. `lengths` are T where they are left out.
            shapes: The part of an output that is wanted; all of it by default.

        Returns:
            Copies of the model's own outputs by name.

        Raises:
            RuntimeSessionError: ONNX Runtime fails on the graph.
        """
        shapes = shapes or {}
        with self.lock:
            source = self._current if self.streams else INITIAL
            target = 0 if source is INITIAL else 1 - source
            capture = self._graphs is not None and (source, target) not in self._captured
            full = dict.fromkeys(self.lengths, np.full(self._sizes["batch"], self._sizes["time"]))
            with using(self._session.device):
                for name, array in {**full, **feeds}.items():
                    self._inputs[name].write(array)
                bound, options = self._bound(source, target)
            with using(self._session.device, capture=capture):
                try:
                    self._session.raw.run_with_iobinding(bound, options)
                except Exception as error:  # onnxruntime's exceptions have no common base
                    raise RuntimeSessionError(
                        f"ONNX Runtime failed: {str(error).strip()}"
                    ) from error
            self._captured.add((source, target))
            self._current = target
            with using(self._session.device):
                return {
                    name: buffer.read(shapes.get(name)) for name, buffer in self._outputs.items()
                }

    def run_once(
        self, feeds: Mapping[str, Array], sizes: Mapping[str, int], outputs: Iterable[Value]
    ) -> dict[str, Array]:
        """Run the graph once on what a session is fed, of as many streams and timesteps or fewer.

        Args:
            feeds: Arrays by input name, unchecked; without states from the initial one.
            sizes: N and T of them.
            outputs: The model's own and those of the state, with axes that tell N and T.

        Returns:
            Copies of them by name, of those sizes.

        Raises:
            InputError: Some states are given and others not, or the graph cannot continue streams.
            RuntimeSessionError: ONNX Runtime fails on the graph.
        """
        state = {name: feeds[name] for name in self.carried if name in feeds}
        if state and not (self.streams and len(state) == len(self.carried)):
            raise InputError(
                f"a state is given as {sorted(state)}; pass that of all BNLSTM, to a graph that "
                "can continue the streams of all"
            )
        own = {value.name: feeds[value.name] for value in self._session.inputs}
        for name in self.lengths:
            # Streams that are only padding have all timesteps: a graph that needs no mask for the
            # others needs none for them.
            own[name] = np.full(self.batch, self._sizes[TIME])
            own[name][: sizes[BATCH]] = feeds.get(name, sizes[TIME])
        shapes = {value.name: value.sized(sizes) for value in outputs}
        with self.lock:
            if state:
                self.start(state)
            else:
                self.reset()
            return self.run(own, shapes) | self.read_state(shapes)

    def read_state(self, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Array]:
        """Return copies of the state after the last run, or of the part of them, by output name."""
        with self.lock, using(self._session.device):
            states = self._states[self._current or 0]
            return {name: b.read((shapes or {}).get(name)) for name, b in states.items()}

    def _bound(self, source: int | None, target: int) -> tuple[Any, Any]:
        """Return ONNX Runtime's binding from one set of states to another, and run options."""
        if (source, target) not in self._runs:
            bound = self._session.raw.io_binding()
            inputs = dict(self._inputs)
            if source is not INITIAL:
                states = self._states[source]
                inputs |= {into: states[out] for into, out in self.carried.items()}
            for name, buffer in inputs.items():
                bound.bind_ortvalue_input(name, buffer.value)
            # Never into the set that is read: the run that captures executes the graph three times.
            for name, buffer in {**self._outputs, **self._states[target]}.items():
                bound.bind_ortvalue_output(name, buffer.value)
            options = None
            if self._graphs is not None:
                options = ort.RunOptions()
                options.add_run_config_entry("gpu_graph_id", str(next(self._graphs)))
            self._runs[source, target] = bound, options
        return self._runs[source, target]

    def _buffer(self, value: Value, *, staged: bool = True) -> Buffer:
        unknown = [a for a in value.shape if not isinstance(a, int) and a not in self._sizes]
        if unknown or value.dtype is None:
            raise RuntimeSessionError(
                f"{value.name!r} has shape {value.shape}; a binding needs sizes that are fixed, "
                "'batch' or 'time', and numbers. Call the session itself"
            )
        return Buffer(value.sized(self._sizes), value.dtype, self._session.device, staged=staged)
