"""A model of Triton's Python backend: an exported file on ONNX Runtime, its streams in batches.

`bnlstm-deploy deploy triton --backend python` copies this module beside the exported file, so it
imports nothing of the package. What it has to know of the file is in the configuration's parameter
`bnlstm`. Requests have the batch first; the file may have it on another axis.
"""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from numpy.typing import NDArray

WARM_UP_STEPS = 8
ERROR_SEVERITY = 3

CRASHES = ("FuseFp16InitializerToFp32NodeTransformer",)
"""An optimizer that ends the process on many float16 graphs."""

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}

Array = NDArray[np.generic]
Arrays = dict[str, Array]
"""By the file's names, with the file's axes."""

Request = Any
Response = Any
"""Triton's, which has no types."""


class Chunk(NamedTuple):
    """A request: whole sequences, or the next timesteps of one stream."""

    position: int
    """Among the requests of one call."""
    sequence: int | str | None
    """The stream's identifier; None for whole sequences."""
    last: bool
    """Whether the stream ends with it."""
    feeds: Arrays
    streams: int
    time: int
    """T; 0 if nothing may be padded."""


class TritonPythonModel:
    """One instance of the model. Triton calls it by one thread, and sends it whole streams."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the file, and run it once for each batch size of the warm-up."""
        config = json.loads(args["model_config"])
        facts = json.loads(config["parameters"]["bnlstm"]["string_value"])
        self.inputs: dict[str, int | None] = facts["inputs"]
        """The batch axis of each input; None for (N,), which requests have as (N, 1)."""
        self.outputs: dict[str, int | None] = facts["outputs"]
        """Likewise."""
        self.carried: dict[str, str] = facts["carried"]
        """The inputs that take a stream's state, and the outputs that give it for the next run."""
        self.time_axes: dict[str, int] = facts["time_axes"]
        """Time axes of inputs and outputs; empty if nothing may be padded."""
        self.lengths: list[str] = facts["lengths"]
        """The inputs for the valid timesteps of each stream."""
        self.max_sequences: int = facts["max_sequences"]
        self.axes: dict[str, int] = facts["state_axes"]
        """The batch axis of everything, in the file."""
        self.axes |= {name: axis or 0 for name, axis in (self.inputs | self.outputs).items()}
        self.axes |= dict.fromkeys(self.lengths, 0)
        self.session = _open(args, facts["threads"], facts["library"])
        self.names = [*self.outputs, *self.carried.values()]
        self.states: OrderedDict[int | str, Arrays] = OrderedDict()
        """Of each stream, with the one used last at the end."""
        self.initial: Arrays = {}
        if self.carried:
            # What no timesteps leave behind is what streams start from: learned, if not 0.
            nothing = {name: np.zeros(1, np.int64) for name in self.lengths}
            results = self._compute(self._zeros(1) | nothing)
            self.initial = {into: results[out] for into, out in self.carried.items()}
        for batch in facts["warm_up"]:
            self._compute(self._zeros(batch))

    def execute(self, requests: list[Request]) -> list[Response]:
        """Answer requests, of different streams, with as few runs as their shapes allow."""
        responses: list[Response] = [pb_utils.InferenceResponse([]) for _ in requests]
        groups: dict[tuple[tuple[int, ...], ...], list[Chunk]] = {}
        for position, request in enumerate(requests):
            # With the direct strategy, an idle slot between busy ones gets a request of no stream.
            if not self.carried or _control(request, "READY"):
                try:
                    chunk = self._read(position, request)
                except ValueError as error:
                    responses[position] = _failure(str(error))
                else:
                    groups.setdefault(self._shapes(chunk), []).append(chunk)
        for chunks in groups.values():
            try:
                results = self._compute(self._stack(chunks))
            except Exception as error:  # onnxruntime's exceptions have no common base
                for chunk in chunks:
                    responses[chunk.position] = _failure(f"ONNX Runtime failed: {error}")
                    if chunk.sequence is not None and chunk.last:
                        # Triton gives its slot away all the same.
                        self.states.pop(chunk.sequence, None)
                continue
            first = 0
            for chunk in chunks:
                own = {
                    name: array.take(range(first, first + chunk.streams), self.axes[name])
                    for name, array in results.items()
                }
                first += chunk.streams
                self._keep(chunk, own)
                responses[chunk.position] = self._response(chunk, own)
        return responses

    def _read(self, position: int, request: Request) -> Chunk:
        """Return a request with the state of its stream.

        Raises:
            ValueError: There is none, and the stream does not start.
        """
        feeds = {}
        for name, axis in self.inputs.items():
            array = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            feeds[name] = array.reshape(-1) if axis is None else np.moveaxis(array, 0, axis)
        streams = len(array)
        time = next((feeds[n].shape[a] for n, a in self.time_axes.items() if n in feeds), 0)
        if not self.carried:
            return Chunk(position, None, last=True, feeds=feeds, streams=streams, time=time)
        sequence: int | str = request.correlation_id()
        if _control(request, "START"):
            self.states.pop(sequence, None)  # begun again, it has its slot already
            while len(self.states) >= self.max_sequences:
                # Triton gives out no more slots than this, and does not say when it takes one back
                # from a stream that has been idle: that one is the first here.
                self.states.popitem(last=False)
            self.states[sequence] = self.initial
        if sequence not in self.states:
            raise ValueError(
                f"sequence {sequence} is not held; begin it again with its first chunk"
            )
        self.states.move_to_end(sequence)
        feeds |= self.states[sequence]
        return Chunk(position, sequence, _control(request, "END"), feeds, streams, time)

    def _shapes(self, chunk: Chunk) -> tuple[tuple[int, ...], ...]:
        """Return what chunks must have in common to be run together."""
        shapes = []
        for name, array in chunk.feeds.items():
            free = {self.axes[name], self.time_axes.get(name)}
            shapes.append(tuple(n for axis, n in enumerate(array.shape) if axis not in free))
        return tuple(shapes)

    def _stack(self, chunks: list[Chunk]) -> Arrays:
        """Return the arrays of all chunks' streams, padded with zeros to the longest."""
        time = max(chunk.time for chunk in chunks)
        feeds = {}
        for name in chunks[0].feeds:
            arrays = [chunk.feeds[name] for chunk in chunks]
            if name in self.time_axes:
                arrays = [_padded(array, self.time_axes[name], time) for array in arrays]
            feeds[name] = np.concatenate(arrays, self.axes[name])
        if any(chunk.time != time for chunk in chunks):
            valid = np.repeat([chunk.time for chunk in chunks], [chunk.streams for chunk in chunks])
            for name in self.lengths:
                feeds.setdefault(name, valid)
        return feeds

    def _compute(self, feeds: Arrays) -> Arrays:
        return dict(zip(self.names, self.session.run(self.names, feeds), strict=True))

    def _keep(self, chunk: Chunk, results: Arrays) -> None:
        if chunk.sequence is None:
            return
        if chunk.last:
            del self.states[chunk.sequence]
        else:
            self.states[chunk.sequence] = {n: results[out] for n, out in self.carried.items()}

    def _response(self, chunk: Chunk, results: Arrays) -> Response:
        tensors = []
        for name, axis in self.outputs.items():
            array = results[name]
            if name in self.time_axes:
                array = array.take(range(chunk.time), self.time_axes[name])
            array = array.reshape(-1, 1) if axis is None else np.moveaxis(array, axis, 0)
            tensors.append(pb_utils.Tensor(name, np.ascontiguousarray(array)))
        return pb_utils.InferenceResponse(tensors)

    def _zeros(self, batch: int) -> Arrays:
        feeds: Arrays = {}
        for value in self.session.get_inputs():
            shape = [n if isinstance(n, int) else WARM_UP_STEPS for n in value.shape]
            shape[self.axes[value.name]] = batch
            feeds[value.name] = np.zeros(shape, DTYPES[value.type])
        return feeds


def _open(args: dict[str, Any], threads: int, library: str | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = ERROR_SEVERITY
    options.enable_mem_pattern = False  # patterns are of one shape, and sequences have many
    options.intra_op_num_threads = threads
    providers: list[Any] = ["CPUExecutionProvider"]
    if args["model_instance_kind"] == "GPU":
        device = {"device_id": args["model_instance_device_id"], "use_tf32": "0"}
        providers = [("CUDAExecutionProvider", device), *providers]
    if library is not None:
        options.add_session_config_entry("bnlstm.provider", "cuda" if providers[1:] else "cpu")
        options.add_session_config_entry("bnlstm.intra_op_num_threads", str(threads))
        options.register_custom_ops_library(str(Path(__file__).with_name(library)))
    path = Path(__file__).with_name("model.onnx")
    session = ort.InferenceSession(
        str(path), options, providers=providers, disabled_optimizers=CRASHES
    )
    if len(session.get_providers()) < len(providers):
        raise pb_utils.TritonModelException("ONNX Runtime's CUDA provider does not start")
    return session


def _control(request: Request, name: str) -> bool:
    return bool(pb_utils.get_input_tensor_by_name(request, name).as_numpy().item())


def _failure(message: str) -> Response:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))


def _padded(array: Array, axis: int, size: int) -> Array:
    width = [(0, 0)] * array.ndim
    width[axis] = (0, size - array.shape[axis])
    return np.pad(array, width)
