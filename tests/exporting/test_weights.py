"""Weights in int8, float16 and bfloat16 in graphs of float32."""

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from onnx import numpy_helper

from bnlstm_deploy.dtypes import STORED
from bnlstm_deploy.errors import ExportError, RuntimeSessionError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.exporting.export import fold_layers
from bnlstm_deploy.folding.approximate import Approximation
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session
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
        ({"weights": "int8", "form": "lstm"}, "cannot be exported in the form lstm"),
    ],
)
def test_what_cannot_be_stored_so(options, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export(model(normalize=()), tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_metadata_that_nobody_writes_are_refused(tmp_path):
    export(model(), tmp_path / "m.onnx", weights="int8")
    loaded = onnx.load(tmp_path / "m.onnx")
    for entry in loaded.metadata_props:
        if entry.key == "bnlstm.weights":
            entry.value = "int4"
    del loaded.metadata_props[-1]  # the seal
    onnx.save(loaded, tmp_path / "m.onnx")
    with pytest.raises(RuntimeSessionError, match=r"bnlstm\.weights is 'int4', and can be int8"):
        Session(tmp_path / "m.onnx")
