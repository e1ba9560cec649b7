"""Session: an exported file on ONNX Runtime, called with numpy arrays."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.errors import InputError, RuntimeSessionError
from bnlstm_deploy.metadata import CARRIED, Metadata, RecurrentLayers
from bnlstm_deploy.runtime.binding import Binding
from bnlstm_deploy.runtime.device import Device, using
from bnlstm_deploy.runtime.inputs import DTYPES, Array, Value, check_feeds
from bnlstm_deploy.runtime.opening import Opening
from bnlstm_deploy.runtime.options import CPU
from bnlstm_deploy.runtime.providers import (
    Provider,
    check_active,
    check_placed,
    resolve,
)
from bnlstm_deploy.state import State


class Session:
    """Runs a file that bnlstm_deploy exported.

        session = Session("model.onnx")
        output, state = session(x)              # zero state, step 0
        output, state = session(y, state=state) # continues the same streams

    A session may be used by several threads at a time.

    Args:
        path: The ONNX file.
        providers: Execution providers in order of preference: `"cpu"`, `"cuda"`, `"tensorrt"`,
            ONNX Runtime's own names, or pairs of a name and options, such as
            `("cuda", {"device_id": 1, "memory_limit": "2GB"})` (docs/runtime.md). Each is honoured
            or an error.
        intra_op_num_threads: Threads inside an operator; ONNX Runtime's default is the number of
            cores.
        inter_op_num_threads: Threads across operators; used by parallel execution only.
        allow_partial: Whether the CPU may take nodes that the providers do not. Arithmetic on
            shapes, which ONNX Runtime always keeps on the CPU, is not meant.
        native: Whether the native kernel computes the recurrent layers, where it can: on the CPU as
            the only provider, in float32 and float64. If not, the file's function body does. The
            environment variable BNLSTM_DEPLOY_NATIVE chooses as well (docs/native.md).

    Attributes:
        metadata: What the file says of itself.
        inputs: The model's own inputs, in order.
        state_inputs: The optional inputs: initial states, lengths, start steps.
        outputs: The model's own outputs, in order.
        state_outputs: Final states and next steps.
        providers: The active providers, in order.
        native: Whether the native kernel runs, on which instruction set, and if not, why.
        device: Where the first of them has its memory.
        raw: ONNX Runtime's own session.

    Raises:
        RuntimeSessionError: The file or a provider cannot be used, nodes are on the CPU that may
            not be, or BNLSTM_DEPLOY_NATIVE names an instruction set that cannot be had.
    """

    captures: ClassVar[bool] = False
    """Whether runs are captured as CUDA graphs: by Buckets only, which have fixed addresses."""

    def __init__(
        self,
        path: str | Path,
        *,
        providers: Sequence[Provider] = ("cpu",),
        intra_op_num_threads: int | None = None,
        inter_op_num_threads: int | None = None,
        allow_partial: bool = True,
        native: bool = True,
    ) -> None:
        path = Path(path)
        if not path.is_file():
            raise RuntimeSessionError(f"{path} does not exist or is not a file")
        requested = resolve(providers, capture=self.captures)
        self.device = Device.of(requested)
        opening = Opening(
            requested,
            self.device,
            intra_op_num_threads,
            inter_op_num_threads,
            records_placement=not allow_partial,
            captures=self.captures,
        )
        self.raw, self.native = opening.open(path, native=native)
        check_active(self.raw, [name for name, _ in requested])
        if not allow_partial and requested[0][0] != CPU:
            check_placed(self.raw)
        self.metadata = Metadata.from_properties(self.raw.get_modelmeta().custom_metadata_map)
        self.inputs = _values(self.raw.get_inputs())
        self.state_inputs = _values(self.raw.get_overridable_initializers())
        state_names = {
            entry.value_name(kind) for entry in self.metadata.layers for kind in CARRIED.values()
        }
        outputs = _values(self.raw.get_outputs())
        self.outputs = tuple(value for value in outputs if value.name not in state_names)
        self.state_outputs = tuple(value for value in outputs if value.name in state_names)
        self.providers: tuple[str, ...] = tuple(self.raw.get_providers())

    def __call__(
        self,
        *inputs: Array,
        state: State | Mapping[str, State] | None = None,
        lengths: NDArray[np.int64] | Mapping[str, NDArray[np.int64]] | None = None,
    ) -> tuple[Any, Any]:
        """Run the model over N streams.

        Args:
            inputs: The model's own inputs, in order, in the graph's dtypes.
            state: The state that the call before returned; zeros at step 0 by default.
            lengths: (N,) int64, 0..T: the valid timesteps of each stream; T by default. Past its
                length a stream's state is held and the output of its recurrent layers is 0.

        Returns:
            The model's own output, an array or a tuple of several, and the state after the inputs.
            For a model with several BNLSTM, `state` and `lengths` are by their module paths, both
            as arguments and as results.

        Raises:
            InputError: An input, the state or the lengths do not fit the graph, or a graph that
                cannot continue streams is asked to.
        """
        results = self.run(self.feeds(*inputs, state=state, lengths=lengths))
        return self.output(results), self.state(results)

    def feeds(
        self,
        *inputs: Array,
        state: State | Mapping[str, State] | None = None,
        lengths: NDArray[np.int64] | Mapping[str, NDArray[np.int64]] | None = None,
    ) -> dict[str, Array]:
        """Return the arguments of a call as arrays by input name.

        Raises:
            InputError: Their number is wrong, or a graph that cannot continue streams is asked to.
        """
        if len(inputs) != len(self.inputs):
            raise InputError(
                f"{len(inputs)} inputs given; this model takes {[v.name for v in self.inputs]}"
            )
        feeds = {value.name: array for value, array in zip(self.inputs, inputs, strict=True)}
        feeds |= self.state_feeds(state)
        layers = {entry.name: entry for entry in self.metadata.layers}
        for name, valid in _by_module(lengths, layers, "lengths").items():
            feeds[layers[name].value_name("lengths")] = valid
        return feeds

    def state_feeds(self, state: State | Mapping[str, State] | None) -> dict[str, Array]:
        """Return a state as arrays by input name; nothing for None.

        Raises:
            InputError: It is of other modules, or given to a graph that cannot continue streams.
        """
        layers = {entry.name: entry for entry in self.metadata.layers}
        feeds: dict[str, Array] = {}
        for name, given in _by_module(state, layers, "state").items():
            feeds |= self._state_feeds(layers[name], given)
        return feeds

    def output(self, results: Mapping[str, Array]) -> Array | tuple[Array, ...]:
        """Return the model's own output, an array or a tuple, out of arrays by output name."""
        output = tuple(results[value.name] for value in self.outputs)
        return output[0] if len(output) == 1 else output

    def state(self, results: Mapping[str, Any]) -> State | dict[str, State]:
        """Return the State, or that of each BNLSTM by module path, out of arrays by output name."""
        states = {}
        for entry in self.metadata.layers:
            h, c = results[entry.value_name("h_n")], results[entry.value_name("c_n")]
            states[entry.name] = State(h, c, results.get(entry.value_name("next_step")))
        return states.get("", states)

    def bind(self, batch: int, time: int) -> Binding:
        """Return this session with fixed sizes, and with states that stay on the device.

        Args:
            batch: N, the streams of every call.
            time: T, the timesteps of every call.

        Raises:
            InputError: The graph does not take these sizes.
            RuntimeSessionError: An input or output has a size that is neither fixed, N nor T.
        """
        return Binding(self, batch, time)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph: arrays by input name to arrays by output name.

        Raises:
            InputError: The arrays do not fit the graph.
            RuntimeSessionError: ONNX Runtime fails on the graph.
        """
        check_feeds(feeds, self.inputs, self.state_inputs, self.metadata)
        return self.run_unchecked(feeds)

    def run_unchecked(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph on what it takes and `run` refuses, such as lengths above T.

        Raises:
            RuntimeSessionError: ONNX Runtime fails on the graph.
        """
        names = [value.name for value in (*self.outputs, *self.state_outputs)]
        try:
            with using(self.device):
                arrays = self.raw.run(names, dict(feeds))
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise RuntimeSessionError(f"ONNX Runtime failed: {str(error).strip()}") from error
        return dict(zip(names, arrays, strict=True))

    def _state_feeds(self, layers: RecurrentLayers, state: State) -> dict[str, Array]:
        if not isinstance(state, State):
            raise InputError(
                f"the state is a {type(state).__name__}; pass the State that the call before "
                "returned, or State(h, c, step): h and c alone do not say which statistics are next"
            )
        if state.step is None or not layers.streams:
            why = (
                "a model with two directions, which cannot continue a stream: its reverse "
                "direction starts at the end"
                if layers.num_directions == 2
                else "a graph with materialized weights, which cannot continue a stream: they "
                "belong to timesteps from step 0 on. To stream, export with folding='factored'"
            )
            raise InputError(
                f"a state is given to {why}. Pass whole sequences; an initial state goes in with "
                "run({..., 'initial_h': h, 'initial_c': c})"
            )
        feeds: dict[str, Array] = {
            layers.value_name("initial_h"): state.h,
            layers.value_name("initial_c"): state.c,
            layers.value_name("start_step"): state.step,
        }
        absent = feeds.keys() - {value.name for value in self.state_inputs}
        if absent:
            raise InputError(
                f"the graph has no input {sorted(absent)[0]!r}: the exported model passes that to "
                "its BNLSTM itself"
            )
        return feeds


def _by_module(
    given: object, layers: Mapping[str, RecurrentLayers], what: str
) -> Mapping[str, Any]:
    """Return states or lengths by module path; a model with one BNLSTM has the path ""."""
    if given is None:
        return {}
    by_module = given if isinstance(given, Mapping) else {"": given}
    unknown = by_module.keys() - layers.keys()
    if unknown:
        raise InputError(
            f"{what} is given for {sorted(unknown)}; the model's BNLSTM are {sorted(layers)}, pass "
            f"a dict with {what} for each"
        )
    return by_module


def _values(arguments: Sequence[Any]) -> tuple[Value, ...]:
    return tuple(Value(a.name, DTYPES.get(a.type), tuple(a.shape)) for a in arguments)
