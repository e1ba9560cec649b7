"""What Triton does around its ONNX Runtime backend, so far as a repository depends on it."""

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime as ort
import tritonclient
from google.protobuf import text_format
from tritonclient.utils import triton_to_np_dtype

# The module alone: the rest of tritonclient.grpc defines messages that kserve has by the same name.
_SPEC = importlib.util.spec_from_file_location(
    "model_config_pb2", Path(tritonclient.__path__[0]) / "grpc" / "model_config_pb2.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
model_config_pb2 = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(model_config_pb2)

DTYPES = {"tensor(float)": "FP32", "tensor(double)": "FP64", "tensor(int64)": "INT64"}


def read_config(folder):
    """Parse config.pbtxt with Triton's own protobuf."""
    text = (folder / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def type_name(number):
    return model_config_pb2.DataType.Name(number).removeprefix("TYPE_")


class Driver:
    """Loads a model as the backend does, and keeps implicit states as the sequence batcher does."""

    def __init__(self, folder):
        self.config = read_config(folder)
        options = ort.SessionOptions()
        for library in self.config.model_operations.op_library_filename:
            options.register_custom_ops_library(library)  # as it is: the backend adds no folder
        self.session = ort.InferenceSession(folder / "1" / "model.onnx", options)
        states = self.config.sequence_batching.state
        # sequence_state.cc: two maps ordered by name, and a state's place in one is that in both
        inputs = sorted(state.input_name for state in states)
        outputs = sorted(state.output_name for state in states)
        self.pairs = dict(zip(inputs, outputs, strict=True))
        self.initial = {state.input_name: self._initial(folder, state) for state in states}
        self.states = {}
        self._check_tensors()

    def _initial(self, folder, state):
        (initial,) = state.initial_state
        assert list(initial.dims) == list(state.dims)
        assert initial.data_type == state.data_type
        assert initial.name
        dtype = triton_to_np_dtype(type_name(state.data_type))
        if initial.WhichOneof("state_data") == "zero_data":
            return np.zeros((1, *state.dims), dtype)
        data = np.fromfile(folder / "initial_state" / initial.data_file, dtype)
        return data.reshape(1, *state.dims)

    def _check_tensors(self):
        """Check what the backend checks when it loads a model: onnxruntime.cc, Validate*."""
        assert self.config.max_batch_size > 0
        assert not self.session.get_overridable_initializers()
        state = self.config.sequence_batching.state
        found = {value.name: value for value in self.session.get_inputs()}
        expected = [(v.name, v) for v in self.config.input] + [(s.input_name, s) for s in state]
        assert sorted(found) == sorted(name for name, _ in expected)
        found |= {value.name: value for value in self.session.get_outputs()}
        expected += [(v.name, v) for v in self.config.output] + [(s.output_name, s) for s in state]
        for name, value in expected:
            batch, *dims = (n if isinstance(n, int) else -1 for n in found[name].shape)
            assert batch == -1, name
            assert dims == list(value.dims), name
            assert DTYPES[found[name].type] == type_name(value.data_type), name

    def run(self, chunks, *, start=()):
        """Run the next chunks of several streams as one batch.

        Args:
            chunks: The inputs of each stream by its identifier: arrays (1, ...) by name.
            start: The streams that start.
        """
        for stream in start:
            self.states[stream] = self.initial
        feeds = [chunk | self.states[stream] for stream, chunk in chunks.items()]
        batch = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        names = [value.name for value in self.session.get_outputs()]
        results = dict(zip(names, self.session.run(names, batch), strict=True))
        for row, stream in enumerate(chunks):
            self.states[stream] = {i: results[o][row : row + 1] for i, o in self.pairs.items()}
        return {
            stream: {v.name: results[v.name][row : row + 1] for v in self.config.output}
            for row, stream in enumerate(chunks)
        }
