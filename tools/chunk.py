"""A stream of one timestep a call: what a call costs, native kernel against LSTM operator.

Both are calls of ONNX Runtime's `InferenceSession.run` with numpy arrays: the input, and h and c of
the call before; for the BNLSTM its step, too. Both return the output, h and c.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from bnlstm_deploy.runtime import Session
from tools import peers
from tools.peers import Size

SIZE = Size(1, 1, 1, 100)
STEPS = 784
"""Of statistics."""


@dataclass(frozen=True)
class Chunk:
    """Median microseconds of a call."""

    size: Size
    native_us: float
    lstm_operator_us: float

    @property
    def ratio(self) -> float:
        """The native kernel's time over the operator's."""
        return self.native_us / self.lstm_operator_us


def measure_chunk(seed: int, seconds: float) -> Chunk:
    """Measure calls of one stream, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "native.onnx")
        peers.write_deployed(Size(1, STEPS, SIZE.D, SIZE.H), seed, path)
        native = Session(path, intra_op_num_threads=1)
        operator = _operator(seed, Path(folder, "operator.onnx"))
    zeros = np.zeros((1, SIZE.N, SIZE.H), np.float32)
    feeds = {"initial_h": zeros, "initial_c": zeros}
    x = {"input": np.ones((1, SIZE.N, SIZE.D), np.float32)}
    calls = (
        (native.raw, ["output", "h_n", "c_n"], x | feeds | {"start_step": np.zeros(1, np.int64)}),
        (operator, ["output", "Y_h", "Y_c"], x | feeds),
    )
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < peers.MIN_ROUNDS:
        for taken, (session, names, given) in zip(times, calls, strict=True):
            session.run(names, given)
            start = time.perf_counter()
            session.run(names, given)
            taken.append((time.perf_counter() - start) * 1e6)
    return Chunk(SIZE, *(float(np.median(taken)) for taken in times))


def _operator(seed: int, path: Path) -> ort.InferenceSession:
    """Return the LSTM operator with its states as inputs and outputs."""
    peers.write_lstm_operator(SIZE, seed, path)
    proto = onnx.load(path)
    (node,) = (node for node in proto.graph.node if node.op_type == "LSTM")
    node.input.extend(["", "initial_h", "initial_c"])
    node.output.extend(["Y_h", "Y_c"])
    real = onnx.TensorProto.FLOAT
    shape: list[str | int | None] = [1, "batch", SIZE.H]

    def value(name: str) -> Any:  # noqa: ANN401
        return onnx.helper.make_tensor_value_info(name, real, shape)

    proto.graph.input.extend([value("initial_h"), value("initial_c")])
    proto.graph.output.extend([value("Y_h"), value("Y_c")])
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
