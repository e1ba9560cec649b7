"""A copy with the batch first computes what its source does."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from bnlstm_deploy.batch_first import Port, batch_first
from bnlstm_deploy.errors import ExportError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from tests.models import randomize

STATE_IN = {"initial_h": 1, "initial_c": 1, "start_step": 0}
STATE_OUT = {"h_n": 1, "c_n": 1, "next_step": 0}


class Several(nn.Module):
    """Two BNLSTM of different sizes, and a second input that is (N,)."""

    def __init__(self):
        super().__init__()
        self.a = BNLSTM(3, 4, max_length=4)
        self.b = BNLSTM(4, 2, num_layers=2, max_length=3)

    def forward(self, input, offset):
        return self.b(self.a(input)[0])[0] + offset[:, None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with time.onnx, batch.onnx and several.onnx."""
    folder = tmp_path_factory.mktemp("batch_first")
    for name, first in (("time", False), ("batch", True)):
        model = BNLSTM(3, 5, num_layers=2, batch_first=first, max_length=4)
        export(randomize(model), folder / f"{name}.onnx")
    examples = (torch.zeros(4, 2, 3), torch.zeros(2))
    axes = ({0: "time", 1: "batch"}, {0: "batch"})
    export(randomize(Several()), folder / "several.onnx", inputs=examples, dynamic_shapes=axes)
    return folder


def ports(axes):
    return [Port(name, f"new {name}", axis) for name, axis in axes.items()]


def turned(array, axis):
    """Return an array as the copy has it."""
    return array[:, None] if array.ndim == 1 else np.ascontiguousarray(np.moveaxis(array, axis, 0))


def check(source, destination, inputs, outputs, feeds):
    """Check that the copy gives what the source gives."""
    batch_first(source, destination, ports(inputs), ports(outputs))
    onnx.checker.check_model(onnx.load(destination), full_check=True)
    copy = ort.InferenceSession(destination)
    assert [value.name for value in copy.get_inputs()] == [f"new {name}" for name in inputs]
    assert [value.name for value in copy.get_outputs()] == [f"new {name}" for name in outputs]
    assert not copy.get_overridable_initializers()
    new = {f"new {name}": turned(feeds[name], axis) for name, axis in inputs.items()}
    expected = ort.InferenceSession(source).run([*outputs], feeds)
    results = copy.run(None, new)
    values = zip(copy.get_outputs(), expected, results, outputs.values(), strict=True)
    for value, own, result, axis in values:
        np.testing.assert_allclose(result, turned(own, axis), atol=1e-6)
        assert value.shape[0] == "batch"
        fits = zip(value.shape[1:], result.shape[1:], strict=True)
        assert all(isinstance(size, str) or size == actual for size, actual in fits)


def chunk(name, axis, streams=3, time=5):
    """Return the inputs of one chunk, with streams at different steps."""
    generator = np.random.default_rng(0)
    leading = (streams, time) if axis == 0 else (time, streams)
    states = generator.uniform(-0.5, 0.5, (2, 2, streams, 5)).astype(np.float32)
    return {
        name: generator.standard_normal((*leading, 3)).astype(np.float32),
        "initial_h": states[0],
        "initial_c": states[1],
        "start_step": np.arange(streams),
    }


@pytest.mark.parametrize(("name", "axis"), [("time", 1), ("batch", 0)])
@pytest.mark.parametrize("streams", [1, 3])
def test_streams(folder, tmp_path, name, axis, streams):
    inputs, outputs = {"input": axis} | STATE_IN, {"output": axis} | STATE_OUT
    feeds = chunk("input", axis, streams)
    check(folder / f"{name}.onnx", tmp_path / "m.onnx", inputs, outputs, feeds)


def test_inputs_that_are_left_out_have_their_own_values(folder, tmp_path):
    inputs, outputs = {"lengths": 0, "input": 1}, {"h_n": 1}
    feeds = {"input": chunk("input", 1)["input"], "lengths": np.array([5, 0, 2])}
    check(folder / "time.onnx", tmp_path / "m.onnx", inputs, outputs, feeds)


def test_several_states_and_an_input_of_one_axis(folder, tmp_path):
    outputs = {"output": 1}
    inputs = {"input": 1, "offset": 0}
    generator = np.random.default_rng(0)
    feeds = {
        "input": generator.standard_normal((6, 3, 3)).astype(np.float32),
        "offset": generator.standard_normal(3).astype(np.float32),
    }
    for module, layers, size in (("a", 1, 4), ("b", 2, 2)):
        inputs |= {f"{module}.{name}": axis for name, axis in STATE_IN.items()}
        outputs |= {f"{module}.{name}": axis for name, axis in STATE_OUT.items()}
        states = generator.uniform(-0.5, 0.5, (2, layers, 3, size)).astype(np.float32)
        feeds |= {f"{module}.initial_h": states[0], f"{module}.initial_c": states[1]}
        feeds |= {f"{module}.start_step": np.arange(3)}
    check(folder / "several.onnx", tmp_path / "m.onnx", inputs, outputs, feeds)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"input": 1, "nothing": 0}, {"output": 1}, "has no .'nothing'."),
        ({"input": 1}, {"last": 1}, "has no .'last'."),
        ({"lengths": 0}, {"output": 1}, "cannot do without .'input'."),
    ],
)
def test_ports_that_do_not_fit(folder, tmp_path, inputs, outputs, message):
    with pytest.raises(ExportError, match=message):
        batch_first(folder / "time.onnx", tmp_path / "m.onnx", ports(inputs), ports(outputs))
    assert not list(tmp_path.iterdir())


def test_what_is_not_valid_replaces_nothing(folder, tmp_path):
    destination = tmp_path / "m.onnx"
    destination.write_text("precious")
    twice = [Port("output", "same", 1), Port("h_n", "same", 1)]
    with pytest.raises(ExportError, match="not valid ONNX"):
        batch_first(folder / "time.onnx", destination, ports({"input": 1}), twice)
    assert destination.read_text() == "precious"
    batch_first(folder / "time.onnx", destination, ports({"input": 1}), ports({"output": 1}))
    onnx.checker.check_model(onnx.load(destination), full_check=True)
    assert list(tmp_path.iterdir()) == [destination]
