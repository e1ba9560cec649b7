"""export(): whole models, their inputs and outputs, and what cannot be exported."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from bnlstm_deploy.checkpoint import state_sha256
from bnlstm_deploy.exporting import FoldedBNLSTM, export
from bnlstm_deploy.exporting.export import OPSETS
from bnlstm_deploy.metadata import Metadata
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.verification import sample_like
from tests.models import randomize
from tests.verification.quick import check


def assert_near(actual, truth):
    np.testing.assert_allclose(actual, truth.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_layers": 2, "batch_first": True},
        {"num_layers": 2, "bidirectional": True},
        {"normalize": (), "bias": False},
        {"normalize": ("hidden",), "beta": ("hidden",)},
        {"max_length": 1},
    ],
)
def test_layers_alone(arguments, tmp_path):
    model = BNLSTM(3, 5, **{"max_length": 4} | arguments, dtype=torch.float64)
    model = randomize(model, degenerate=True)
    export(model, tmp_path / "m.onnx", dtype=torch.float64)
    session = Session(tmp_path / "m.onnx")
    rows = model.num_layers * model.num_directions
    for time, batch in ((1, 1), (10, 3), (200, 64)):
        shape = (batch, time, 3) if model.batch_first else (time, batch, 3)
        x = torch.randn(shape, dtype=torch.float64)
        h, c = torch.rand(2, rows, batch, 5, dtype=torch.float64) - 0.5
        lengths = torch.randint(0, time + 1, (batch,))
        feeds = {"input": x, "initial_h": h, "initial_c": c, "lengths": lengths}
        step = 0
        if not model.bidirectional:
            feeds["start_step"] = step = torch.randint(0, 9, (batch,))
        results = session.run({name: tensor.numpy() for name, tensor in feeds.items()})
        output, (h_n, c_n) = model(x, (h, c), lengths=lengths, step=step)
        for name, truth in (("output", output), ("h_n", h_n), ("c_n", c_n)):
            np.testing.assert_allclose(results[name], truth.detach(), rtol=1e-8, atol=1e-9)
        if not model.bidirectional:
            np.testing.assert_array_equal(results["next_step"], step + lengths)


def test_optional_inputs_may_be_left_out_without_this_package(tmp_path):
    model = randomize(BNLSTM(3, 5, max_length=4))
    export(model, tmp_path / "m.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(tmp_path / "m.onnx", options)
    assert [value.name for value in session.get_inputs()] == ["input"]
    x = torch.randn(7, 2, 3)
    output, h_n, c_n, next_step = session.run(None, {"input": x.numpy()})
    for actual, truth in zip((output, h_n, c_n), (model(x)[0], *model(x)[1]), strict=True):
        assert_near(actual, truth)
    assert next_step.tolist() == [7, 7]


@pytest.mark.parametrize("pooling", ["last", "every"])
def test_a_head_honours_lengths(pooling, tmp_path):
    rnn = BNLSTM(3, 5, 2, batch_first=True, bidirectional=pooling == "last", max_length=4)
    model = randomize(BNLSTMModel(rnn, 6, pooling))
    export(model, tmp_path / "m.onnx")
    x, lengths = torch.randn(3, 7, 3), torch.tensor([7, 2, 0])
    output, _ = Session(tmp_path / "m.onnx")(x.numpy(), lengths=lengths.numpy())
    assert_near(output, model(x, lengths=lengths)[0])


class Tagger(nn.Module):
    """A model of one's own: tokens in, scores out, two BNLSTM inside and a residual."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.lower = BNLSTM(6, 6, batch_first=True, max_length=3)
        self.upper = BNLSTM(6, 4, batch_first=True, bidirectional=True, max_length=5)
        self.score = nn.Sequential(nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, tokens, weight):
        x = self.embed(tokens)
        y, _ = self.lower(x)
        y, _ = self.upper(x + y)
        return {"scores": self.score(y) * weight[:, None, None], "mean": y.mean(1)}


def test_a_model_of_ones_own(tmp_path):
    model = randomize(Tagger())
    tokens, weight = torch.randint(0, 11, (2, 3)), torch.rand(2)
    metadata = export(model, tmp_path / "m.onnx", (tokens, weight), output_names=("scores", "mean"))
    assert [entry.name for entry in metadata.layers] == ["lower", "upper"]
    names = {entry.name for entry in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert {"embed.weight", "lower.weight_hh_l0", "upper.bias_l0_reverse"} <= names
    session = Session(tmp_path / "m.onnx")
    assert [value.name for value in session.inputs] == ["tokens", "weight"]
    tokens, weight = torch.randint(0, 11, (5, 9)), torch.rand(5)
    (scores, mean), states = session(tokens.numpy(), weight.numpy())
    truth = model(tokens, weight)
    assert_near(scores, truth["scores"])
    assert_near(mean, truth["mean"])
    assert states["lower"].h.shape == (1, 5, 6)
    assert states["upper"].step is None


class UpsideDown(nn.Module):
    """Calls its BNLSTM in another order than it holds them."""

    def __init__(self):
        super().__init__()
        self.upper = BNLSTM(4, 4, max_length=3)
        self.lower = BNLSTM(2, 4, max_length=3)

    def forward(self, x):
        return self.upper(self.lower(x)[0])[0]


def test_states_have_the_names_of_their_modules(tmp_path):
    model = randomize(UpsideDown()).eval()
    x = torch.randn(5, 2, 2)
    export(model, tmp_path / "m.onnx", inputs=(x,))
    with torch.no_grad():
        y, (h_lower, _) = model.lower(x)
        _, (h_upper, c_upper) = model.upper(y)
    _, states = Session(tmp_path / "m.onnx")(x.numpy())
    np.testing.assert_allclose(states["lower"].h, h_lower.numpy(), atol=1e-5)
    np.testing.assert_allclose(states["upper"].h, h_upper.numpy(), atol=1e-5)
    np.testing.assert_allclose(states["upper"].c, c_upper.numpy(), atol=1e-5)
    np.testing.assert_array_equal(states["upper"].step, [5, 5])
    assert check(model, tmp_path / "m.onnx", sample=sample_like(model, (x,))).passed


class Decoder(nn.Module):
    """Passes state and lengths to its BNLSTM itself."""

    def __init__(self):
        super().__init__()
        self.rnn = BNLSTM(3, 5, max_length=4)

    def forward(self, x, h, c, lengths):
        output, (h_n, c_n) = self.rnn(x, (h, c), lengths=lengths)
        return output, h_n, c_n


def test_what_the_model_passes_itself_is_not_lifted(tmp_path):
    model = randomize(Decoder())
    batch, sequence = {0: "batch"}, {0: "time", 1: "batch"}
    example = (
        torch.randn(3, 2, 3),
        torch.randn(1, 2, 5),
        torch.randn(1, 2, 5),
        torch.tensor([3, 1]),
    )
    shapes = (sequence, {1: "batch"}, {1: "batch"}, batch)
    export(model, tmp_path / "m.onnx", example, dynamic_shapes=shapes)
    session = Session(tmp_path / "m.onnx")
    assert [value.name for value in session.inputs] == ["x", "h", "c", "lengths"]
    assert [value.name for value in session.state_inputs] == ["start_step"]
    assert [v.name for v in session.state_outputs] == ["h_n", "c_n", "next_step"]
    x, h, c = torch.randn(6, 4, 3), torch.randn(1, 4, 5), torch.randn(1, 4, 5)
    lengths = torch.tensor([6, 0, 3, 1])
    feeds = {"x": x, "h": h, "c": c, "lengths": lengths}
    results = session.run({name: tensor.numpy() for name, tensor in feeds.items()})
    for name, truth in zip(("output", "h_n", "c_n"), model(x, h, c, lengths), strict=True):
        assert_near(results[name], truth)


@pytest.mark.parametrize("opset", OPSETS)
def test_opsets(opset, tmp_path):
    model = randomize(BNLSTM(3, 5, max_length=4))
    export(model, tmp_path / "m.onnx", opset=opset)
    proto = onnx.load(tmp_path / "m.onnx")
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == opset
    x = torch.randn(6, 2, 3)
    assert_near(Session(tmp_path / "m.onnx")(x.numpy())[0], model(x)[0])


def test_float64(tmp_path):
    model = randomize(BNLSTM(3, 5, max_length=4))
    metadata = export(model, tmp_path / "m.onnx", dtype=torch.float64)
    assert metadata.dtype == "float64"
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    truth = model.double()(x)[0].detach().numpy()
    np.testing.assert_allclose(Session(tmp_path / "m.onnx")(x.numpy())[0], truth, rtol=1e-10)


def test_the_file_says_what_it_is(tmp_path):
    model = randomize(BNLSTM(3, 5, 2, max_length=4))
    metadata = export(model, tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(proto, full_check=True)
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    assert Metadata.from_properties(properties) == metadata
    assert properties["bnlstm.checkpoint_sha256"] == state_sha256(model)
    assert properties["bnlstm.steps"] == "4"
    assert properties["bnlstm.form"] == "scan"
    assert properties["bnlstm.folding"] == "factored"
    nodes = [node for node in proto.graph.node if node.domain == "bnlstm"]
    assert [node.op_type for node in nodes] == ["BNLSTM", "BNLSTM"]
    assert [function.name for function in proto.functions] == ["BNLSTM"]


def test_the_onnx_reference_evaluator_runs_the_file(tmp_path):
    model = randomize(BNLSTM(3, 5, bidirectional=True, max_length=4))
    export(model, tmp_path / "m.onnx", dtype=torch.float64)
    evaluator = ReferenceEvaluator(str(tmp_path / "m.onnx"))
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    output = evaluator.run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(output, model.double()(x)[0].detach().numpy(), rtol=1e-9)


def test_weights_are_stored_once_whatever_the_steps(tmp_path):
    for steps in (1, 101):
        export(randomize(BNLSTM(3, 16, max_length=steps)), tmp_path / f"{steps}.onnx")
    sizes = [(tmp_path / f"{steps}.onnx").stat().st_size for steps in (1, 101)]
    scales_and_shifts = 4 * (3 * 64 + 2 * 16)  # a single row's scales are in the weights
    assert sizes[1] - sizes[0] == pytest.approx(100 * scales_and_shifts, rel=0.05)


def test_the_model_is_left_as_it_was(tmp_path):
    model = BNLSTM(3, 5, max_length=4).train()
    before = state_sha256(model)
    export(model, tmp_path / "m.onnx")
    assert model.training
    assert state_sha256(model) == before
    assert not model._forward_hooks


def test_the_folded_module_runs_outside_export_too():
    model = randomize(BNLSTM(3, 5, 2, batch_first=True, max_length=4, dtype=torch.float64))
    x, lengths, step = torch.randn(2, 6, 3).double(), torch.tensor([6, 2]), torch.tensor([1, 5])
    torch.testing.assert_close(
        FoldedBNLSTM(model)(x, lengths=lengths, step=step), model(x, lengths=lengths, step=step)
    )


def test_one_tensor_as_two_examples_is_two_inputs(tmp_path):
    """torch's exporter takes a tensor that is there twice for one input."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = randomize(BNLSTM(3, 5, max_length=4))

        def forward(self, left, right):
            return self.rnn(left)[0] - self.rnn.weight_ih_l0[0, 0] * right[..., :1]

    model = Two().eval()
    x = torch.randn(4, 2, 3)
    export(model, tmp_path / "m.onnx", (x, x))
    left, right = torch.randn(2, 4, 2, 3)
    found = Session(tmp_path / "m.onnx").run({"left": left.numpy(), "right": right.numpy()})
    assert_near(found["output"], model(left, right))
