"""Weights in int8, float16 and bfloat16 in graphs of float32."""

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from onnx import numpy_helper

from bnlstm_deploy.dtypes import STORED
from bnlstm_deploy.errors import ExportError, FoldError, InputError, RuntimeSessionError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.exporting.export import fold_layers
from bnlstm_deploy.folding.approximate import Approximation
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session, State
from bnlstm_deploy.verification import sample_like, verify
from tests.models import randomize

TYPES = {"int8": 3, "float16": 10, "bfloat16": 16}


def model(hidden=20, **options):
    return randomize(BNLSTM(6, hidden, 2, max_length=4, **options))


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("form", ["scan", "unrolled"])
@pytest.mark.parametrize("folding", ["factored", "materialized"])
@pytest.mark.parametrize("weights", STORED)
def test_a_graph_computes_with_what_is_stored(weights, form, folding, native, tmp_path):
    rnn = model()
    length = 7 if form == "unrolled" else None
    options = {"form": form, "folding": folding, "length": length}
    metadata = export(rnn, tmp_path / "m.onnx", weights=weights, **options)
    assert (metadata.weights, metadata.dtype) == (weights, "float32")
    held = {entry.name: entry for entry in onnx.load(tmp_path / "m.onnx").graph.initializer}
    for name in ("weight_ih_l0", "weight_hh_l1"):
        assert held[name].data_type == TYPES[weights]
    assert held["bias_l0"].data_type == onnx.TensorProto.FLOAT
    x = np.random.default_rng(0).standard_normal((7, 3, 6)).astype(np.float32)
    session = Session(tmp_path / "m.onnx", native=native)
    assert bool(session.native) == native
    changed = fold_layers(rnn, torch.float64, Approximation(weights=weights))
    expected = changed(torch.from_numpy(x).double())[0].numpy()
    np.testing.assert_allclose(session(x)[0], expected, atol=3e-6)
    exact = rnn.double()(torch.from_numpy(x).double())[0].detach().numpy()
    assert 1e-5 < np.abs(expected - exact).max() < 0.05


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    "options", [{"form": "scan"}, {"form": "unrolled", "length": 1}, {}, {"normalize": ()}], ids=str
)
def test_h_is_rounded_before_the_hidden_product(options, native, tmp_path):
    """In one timestep, so that no rounding before it moves it to another level."""
    rnn = model(normalize=options.pop("normalize", ("input", "hidden", "cell")))
    metadata = export(rnn, tmp_path / "m.onnx", weights="int8", activations="int8", **options)
    assert metadata.activations == "int8"
    generator = np.random.default_rng(0)
    x = generator.standard_normal((1, 9, 6)).astype(np.float32)
    h = generator.uniform(-1.1, 1.1, (2, 9, 20)).astype(np.float32)
    session = Session(tmp_path / "m.onnx", native=native)
    assert bool(session.native) == native
    found, _ = session(x, state=State(h, h, np.zeros(9, np.int64)))
    fold = {
        activations: fold_layers(rnn, torch.float64, Approximation(0.0, "int8", activations))
        for activations in (None, "int8")
    }
    state = (torch.from_numpy(h).double(), torch.from_numpy(h).double())
    changed, plain = (
        fold[activations](torch.from_numpy(x).double(), state)[0].numpy()
        for activations in ("int8", None)
    )
    near = np.abs(127 * h % 1 - 0.5).min(axis=(0, 2)) > 1e-4  # else float32 may round otherwise
    assert near.any()
    assert np.abs(found - changed)[0, near].max() < 1e-5 < np.abs(found - plain).max()


def test_calibrated_weights_cost_less_on_such_data(tmp_path):
    rnn = model(50)
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(2, 6, generator=generator)
    batches = [torch.randn(12, 30, 2, generator=generator) @ mixed for _ in range(4)]
    *data, unseen = batches
    exact = fold_layers(rnn, torch.float64)(unseen.double())[0]
    errors = {}
    for name, calibration in (("nearest", None), ("calibrated", iter(data))):
        path = tmp_path / f"{name}.onnx"
        metadata = export(rnn, path, weights="int8", calibration=calibration)
        assert metadata.calibrated == (calibration is not None)
        output, _ = Session(path)(unseen.numpy())
        errors[name] = np.abs(output - exact.numpy()).mean()
    assert errors["calibrated"] < 0.8 * errors["nearest"]
    report = verify(rnn, tmp_path / "calibrated.onnx", search_seconds=0, isolated=False)
    assert report.passed, report.stages
    assert report.metadata.changes == "Storing calibrated weights in int8"


def test_calibration_with_lengths_and_of_a_model_of_one_s_own(tmp_path):
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = model(20)
            self.second = randomize(BNLSTM(6, 20, max_length=3), seed=1)

        def forward(self, left, right):
            return self.first(left)[0] + self.second(right)[0]

    x = torch.randn(7, 5, 6, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([7, 3, 1, 0, 2])
    export(model(), tmp_path / "m.onnx", weights="int8", calibration=[(x, lengths)])
    two = Two().eval()
    export(two, tmp_path / "two.onnx", (x, x), weights="int8", calibration=[(x, 2 * x), (x, x)])
    report = verify(
        two,
        tmp_path / "two.onnx",
        sample=sample_like(two, (x, x)),
        search_seconds=0,
        isolated=False,
    )
    assert report.passed, report.stages


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], FoldError, "the calibration data have no timestep"),
        ([torch.zeros(0, 3, 6)], FoldError, "the calibration data have no timestep"),
        ([torch.full((3, 2, 6), torch.nan)], FoldError, "are not finite or too large"),
        (
            [torch.full((3, 2, 6), 1e300, dtype=torch.float64)],
            FoldError,
            "are not finite or too large",
        ),
        ([torch.zeros(3, 2, 7)], InputError, r"of shape \(3, 2, 7\)"),
        ([torch.zeros(3, 6)], (InputError, ExportError), "axes|shape"),
        ([np.zeros((3, 2, 6))], InputError, "is ndarray; pass a tensor"),
        ([(torch.zeros(3, 2, 6),) * 3], InputError, "an input and its lengths"),
    ],
)
def test_data_that_cannot_be_used(batches, error, message, tmp_path):
    with pytest.raises(error, match=message):
        export(model(), tmp_path / "m.onnx", weights="int8", calibration=batches)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("weights", STORED)
def test_onnx_s_own_evaluator_runs_it(weights, tmp_path):
    export(model(), tmp_path / "m.onnx", weights=weights)
    x = np.ones((3, 2, 6), np.float32)
    loaded = onnx.load(tmp_path / "m.onnx")
    defaults = {e.name: numpy_helper.to_array(e) for e in loaded.graph.initializer}
    feeds = {v.name: x if v.name == "input" else defaults[v.name] for v in loaded.graph.input}
    (output, *_) = onnx.reference.ReferenceEvaluator(loaded).run(None, feeds)
    np.testing.assert_allclose(output, Session(tmp_path / "m.onnx")(x)[0], atol=2e-6)


def test_files_shrink(tmp_path):
    rnn = model(200, normalize=())
    sizes = {}
    for weights in (None, *STORED):
        export(rnn, tmp_path / f"{weights}.onnx", weights=weights)
        loaded = onnx.load(tmp_path / f"{weights}.onnx")
        sizes[weights] = sum(
            len(numpy_helper.to_array(e).tobytes())
            for e in loaded.graph.initializer
            if e.name.startswith(("weight", "input_scale", "hidden_scale"))
        )
    assert sizes["int8"] < 0.3 * sizes[None]
    assert sizes["float16"] == sizes["bfloat16"] == 0.5 * sizes[None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "int4"}, "weights is 'int4'; pass one of int8, float16, bfloat16"),
        ({"weights": "int8", "dtype": torch.float16}, "in graphs of float32; leave one of them"),
        ({"weights": "int8", "dtype": torch.float64}, "in graphs of float32; leave one of them"),
        ({"calibration": [torch.zeros(3, 2, 6)]}, "weights is None with calibration data, which"),
        ({"activations": "int8"}, "activations is 'int8' and weights is None: integers are"),
        ({"activations": "int8", "weights": "bfloat16"}, "pass weights int8, too"),
        ({"activations": "int4", "weights": "int8"}, "activations is 'int4'; pass int8, or leave"),
        (
            {"activations": "int8", "weights": "int8", "folding": "materialized"},
            "weights would not be integers; leave folding out",
        ),
        (
            {"activations": "int8", "weights": "int8", "form": "lstm"},
            "form lstm: h is rounded before the hidden product",
        ),
        ({"weights": "int8", "form": "lstm"}, "cannot be exported in the form lstm"),
    ],
)
def test_what_cannot_be_stored_so(options, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export(model(normalize=()), tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["weights", "activations"])
def test_metadata_that_nobody_writes_are_refused(key, tmp_path):
    export(model(), tmp_path / "m.onnx", weights="int8", activations="int8")
    loaded = onnx.load(tmp_path / "m.onnx")
    for entry in loaded.metadata_props:
        if entry.key == f"bnlstm.{key}":
            entry.value = "int4"
    del loaded.metadata_props[-1]  # the seal
    onnx.save(loaded, tmp_path / "m.onnx")
    with pytest.raises(RuntimeSessionError, match=rf"bnlstm\.{key} is 'int4', and can be int8"):
        Session(tmp_path / "m.onnx")
