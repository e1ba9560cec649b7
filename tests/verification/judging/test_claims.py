"""A file that says of itself what it is not, or lacks what it ought to have."""

import json

import onnx
import pytest
import torch
from torch import nn

from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from tests.models import randomize
from tests.verification.quick import check


def copied(proto):
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def claiming(proto, name, value):
    copy = copied(proto)
    (entry,) = (e for e in copy.metadata_props if e.key == f"bnlstm.{name}")
    entry.value = value
    return copy


def finding(report, name):
    (found,) = (f for f in report.structure if f.name == name)
    return found


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("dtype", "float16", "dtype is float16, the weights are float32"),
        ("dtype", "float64", "dtype is float64, the weights are float32"),
        ("steps", "7", "steps is 7, the layers have 6"),
        ("form", "lstm", "form is lstm, the nodes' bodies are scan"),
        ("form", "unrolled", "form is unrolled, the nodes' bodies are scan"),
        ("folding", "materialized", "folding is materialized, the nodes' bodies are factored"),
        ("time_axes", '{"input": 0, "output": 1}', "time_axes say 0 of input"),
        ("time_axes", '{"output": 1}', "time_axes say None of input"),
        ("time_axes", '{"input": 1, "output": 0}', "of the outputs are {'output': 0}, and ought"),
    ],
)
def test_a_claim_that_is_wrong_fails(name, value, words, model, proto, tmp_path):
    onnx.save(claiming(proto, name, value), tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx")
    assert not report.passed
    assert words in finding(report, "metadata").detail
    # The numbers are right, and are judged as what they are.
    assert all(stage.passed for stage in report.stages[1:])


def test_a_dtype_that_there_is_not_is_an_error(model, proto, tmp_path):
    onnx.save(claiming(proto, "dtype", "float8"), tmp_path / "m.onnx")
    with pytest.raises(RuntimeSessionError, match="dtype is 'float8', and can be float64, "):
        check(model, tmp_path / "m.onnx")


def test_a_label_does_not_set_the_budget(model, proto, tmp_path):
    wrong = claiming(proto, "dtype", "float16")
    (bias,) = (a for a in wrong.graph.initializer if a.name.endswith("bias_l0"))
    array = onnx.numpy_helper.to_array(bias) + 3e-4  # far below what float16 rounds off
    bias.CopyFrom(onnx.numpy_helper.from_array(array.astype("float32"), bias.name))
    onnx.save(wrong, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx")
    assert report.metadata.dtype == "float32"
    assert report.failures


def test_padding_that_changes_outputs_may_not_be_claimed(tmp_path):
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = BNLSTM(3, 8, max_length=6)

        def forward(self, input):
            return self.rnn(input)[0].mean(0)

    model = randomize(Mean())
    x = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    assert not export(model, tmp_path / "m.onnx", (x,)).pads
    onnx.save(claiming(onnx.load(tmp_path / "m.onnx"), "pads", "true"), tmp_path / "m.onnx")

    def sample(generator, batch, time):
        return [torch.from_numpy(generator.standard_normal((time, batch, 3), "float32"))]

    report = check(model, tmp_path / "m.onnx", sample=sample)
    assert not report.passed
    assert "padding changes the model's outputs" in finding(report, "metadata").detail


def test_streams_that_are_denied(model, proto, tmp_path):
    (entry,) = (e for e in proto.metadata_props if e.key == "bnlstm.layers")
    layers = json.loads(entry.value)
    layers[0]["streams"] = False
    onnx.save(claiming(proto, "layers", json.dumps(layers)), tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx")
    assert not report.passed
    assert "streams is False, and ought to be True" in finding(report, "metadata").detail


def without_input(proto, name):
    """Remove an optional input: what it is when left out stays."""
    copy = copied(proto)
    (index,) = (i for i, value in enumerate(copy.graph.input) if value.name == name)
    del copy.graph.input[index]
    return copy


def without_output(proto, name):
    copy = copied(proto)
    (index,) = (i for i, value in enumerate(copy.graph.output) if value.name == name)
    del copy.graph.output[index]
    return copy


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("name", ["start_step", "lengths", "initial_h"])
def test_a_removed_input_is_found(name, isolated, model, proto, tmp_path):
    onnx.save(without_input(proto, name), tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx", isolated=isolated)
    assert not report.passed
    assert f"the input {name} is missing" in finding(report, "names and shapes").detail


@pytest.mark.parametrize("name", ["h_n", "c_n", "next_step"])
def test_a_removed_output_is_found(name, model, proto, tmp_path):
    onnx.save(without_output(proto, name), tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx")
    assert not report.passed
    assert f"the output {name} is missing" in finding(report, "names and shapes").detail


@pytest.mark.parametrize("axis", [77, "batch"])
def test_an_output_has_its_declared_shape(axis, model, proto, tmp_path):
    wrong = copied(proto)
    dimension = wrong.graph.output[0].type.tensor_type.shape.dim[1]  # that of time
    if isinstance(axis, int):
        dimension.dim_value = axis
    else:
        dimension.dim_param = axis
    onnx.save(wrong, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx")
    assert not report.passed
    assert "output is declared ('batch', " in finding(report, "outputs").detail


def test_an_output_of_another_type_is_an_error(model, proto, tmp_path):
    wrong = copied(proto)
    wrong.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    onnx.save(wrong, tmp_path / "m.onnx")
    with pytest.raises(RuntimeSessionError, match="cannot load"):
        check(model, tmp_path / "m.onnx")
