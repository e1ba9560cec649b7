"""Session: an exported file on ONNX Runtime, called with numpy arrays."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import onnxruntime as ort

from bnlstm_deploy.dtypes import BY_ONNXRUNTIME
from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.metadata import REQUIRED, Metadata
from bnlstm_deploy.runtime.binding import Binding
from bnlstm_deploy.runtime.device import Device, using
from bnlstm_deploy.runtime.inputs import check_feeds
from bnlstm_deploy.runtime.opening import Opening
from bnlstm_deploy.runtime.provider_options import CPU
from bnlstm_deploy.runtime.providers import (
    Provider,
    check_active,
    check_placed,
    resolve,
)
from bnlstm_deploy.signature import Array, Lengths, Signature, States, Value


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
        signature: Its inputs and outputs, and how a call becomes arrays by name.
        inputs: The model's own inputs, in order.
        state_inputs: The optional inputs: initial states, lengths, start steps.
        absent: What is passed for those that are left out, where the file requires them.
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
    spins: ClassVar[bool] = True
    """Whether threads that wait for work keep their cores."""

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
            spins=self.spins,
        )
        self.raw, self.native = opening.open(path, native=native)
        check_active(self.raw, [name for name, _ in requested])
        if not allow_partial and requested[0][0] != CPU:
            check_placed(self.raw)
        self.metadata = Metadata.from_properties(self.raw.get_modelmeta().custom_metadata_map)
        self.signature = Signature.of(
            _values(self.raw.get_inputs()),
            _values(self.raw.get_overridable_initializers()),
            _values(self.raw.get_outputs()),
            self.metadata,
        )
        self.inputs, self.state_inputs = self.signature.inputs, self.signature.state_inputs
        self.outputs, self.state_outputs = self.signature.outputs, self.signature.state_outputs
        required = self.metadata.state == REQUIRED
        self.absent = {v.name: v.absent() for v in self.state_inputs} if required else {}
        self.providers: tuple[str, ...] = tuple(self.raw.get_providers())

    def __call__(
        self,
        *inputs: Array,
        state: States | None = None,
        lengths: Lengths | None = None,
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
        results = self.run(self.signature.feeds(*inputs, state=state, lengths=lengths))
        return self.signature.output(results), self.signature.state(results)

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

    def run(self, feeds: Mapping[str, Array], *, keep_memory: bool = True) -> dict[str, Array]:
        """Run the graph: arrays by input name to arrays by output name.

        Args:
            feeds: The arrays.
            keep_memory: Whether ONNX Runtime keeps the memory that the run took, for the next one.

        Raises:
            InputError: The arrays do not fit the graph.
            RuntimeSessionError: ONNX Runtime fails on the graph.
        """
        check_feeds(feeds, self.signature)
        return self.run_unchecked(feeds, keep_memory=keep_memory)

    def run_unchecked(
        self, feeds: Mapping[str, Array], *, keep_memory: bool = True
    ) -> dict[str, Array]:
        """Run the graph on what it takes and `run` refuses, such as lengths above T.

        Args:
            feeds: The arrays.
            keep_memory: As of `run`.

        Raises:
            RuntimeSessionError: ONNX Runtime fails on the graph.
        """
        names = [value.name for value in (*self.outputs, *self.state_outputs)]
        try:
            with using(self.device):
                arrays = self.raw.run(
                    names, {**self.absent, **feeds}, None if keep_memory else _giving_back()
                )
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise RuntimeSessionError(f"ONNX Runtime failed: {str(error).strip()}") from error
        return dict(zip(names, arrays, strict=True))


def _values(arguments: Sequence[Any]) -> tuple[Value, ...]:
    return tuple(Value(a.name, BY_ONNXRUNTIME.get(a.type), tuple(a.shape)) for a in arguments)


def _giving_back() -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options
