"""Whole models in every form and folding: they pass, and are what they say they are."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.metadata import Metadata
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.runtime import Session
from tests.exporting.nodes import all_nodes
from tests.models import randomize
from tests.verification.quick import check

FIXED = {"form": "unrolled", "length": 5}
MATERIALIZED = {"folding": "materialized"}

# arguments of BNLSTM, arguments of export, the form and the folding that come out
MODELS = [
    ({"num_layers": 2, "batch_first": True}, MATERIALIZED, "scan", "materialized"),
    ({"num_layers": 2, "batch_first": True}, FIXED, "unrolled", "factored"),
    ({"bidirectional": True}, FIXED | MATERIALIZED, "unrolled", "materialized"),
    ({"max_length": 9}, {"target": "cuda", "length": 4}, "unrolled", "materialized"),
    ({"num_layers": 2, "bidirectional": True, "normalize": ()}, {}, "lstm", "factored"),
    ({"batch_first": True, "normalize": ("input",)}, {"form": "lstm"}, "lstm", "factored"),
    ({"normalize": ("hidden",), "max_length": 1}, {}, "lstm", "factored"),
]


@pytest.mark.parametrize(("arguments", "asked", "form", "folding"), MODELS, ids=str)
def test_correct_exports_pass(arguments, asked, form, folding, tmp_path):
    model = randomize(BNLSTM(3, 6, **{"max_length": 4} | arguments))
    metadata = export(model, tmp_path / "m.onnx", **asked)
    assert (metadata.form, metadata.folding) == (form, folding)
    report = check(model, tmp_path / "m.onnx")
    assert report.passed, report.failures
    assert report.metadata == metadata
    assert report.merge_error == 0
    streams = folding == "factored" and not model.bidirectional
    assert [entry.streams for entry in metadata.layers] == [streams]
    assert any("chunks" in c.case for c in report.precision) == streams
    times = {c.time for c in report.precision}
    if form == "unrolled":
        length = metadata.length
        assert times == ({length, 2 * length, 3 * length} if streams else {length})
    else:
        assert metadata.length is None
        assert max(times) == 6 * metadata.steps + 1
    # a curve for each T that outputs have, and none of what chunks of a fixed T give
    drawn = {curve.time for curve in report.curves}
    assert drawn == ({metadata.length} if form == "unrolled" else times)
    for curve in report.curves:
        assert (curve.value, len(curve.error)) == ("output", curve.time)
    proto = onnx.load(tmp_path / "m.onnx")
    operators = [node.op_type for f in proto.functions for node in all_nodes(f.node)]
    assert ("Scan" in operators) == ("scan" in form)
    assert ("LSTM" in operators) == ("lstm" in form)
    inputs = {entry.name for entry in proto.graph.input}
    assert ("start_step" in inputs) == streams


@pytest.mark.parametrize("asked", [FIXED, {}], ids=str)
def test_padding_is_spoilt_where_time_is_fixed_too(asked, tmp_path, monkeypatch):
    model = randomize(BNLSTM(3, 6, max_length=4))
    export(model, tmp_path / "m.onnx", **asked)
    spoilt, run = [], Session.run

    def noted(session, feeds):
        nan = np.isnan(feeds["input"]).any(axis=2)  # (T, N)
        spoilt.append((nan.any(axis=0) & ~nan.all(axis=0)).any())
        return run(session, feeds)

    monkeypatch.setattr(Session, "run", noted)
    assert check(model, tmp_path / "m.onnx").passed
    assert any(spoilt), "a stream with numbers first and NaN after its length"


class Both(nn.Module):
    """An ordinary LSTM under a normalized one."""

    def __init__(self):
        super().__init__()
        self.lower = BNLSTM(3, 6, batch_first=True, max_length=4, normalize=())
        self.upper = BNLSTM(6, 5, 2, batch_first=True, max_length=4)

    def forward(self, x):
        return self.upper(self.lower(x)[0])[0]


def sample(generator, batch, time):
    return [torch.from_numpy(generator.standard_normal((batch, time, 3), dtype=np.float32))]


@pytest.mark.parametrize(
    ("asked", "time", "form", "folding", "streams"),
    [
        ({}, 3, "lstm+scan", "factored", [True, True]),
        (
            {"target": "cuda", "length": 5},
            5,
            "lstm+unrolled",
            "factored+materialized",
            [True, False],
        ),
    ],
)
def test_each_layer_has_the_form_that_suits_it(asked, time, form, folding, streams, tmp_path):
    model = randomize(Both())
    metadata = export(model, tmp_path / "m.onnx", (torch.zeros(2, time, 3),), **asked)
    assert (metadata.form, metadata.folding) == (form, folding)
    assert [entry.streams for entry in metadata.layers] == streams
    assert "lower._l0: The fold is an ordinary LSTM" in metadata.reason
    assert "upper._l0, upper._l1: " in metadata.reason
    report = check(model, tmp_path / "m.onnx", sample=sample)
    assert report.passed, report.failures
    assert any("chunks" in c.case for c in report.precision) == all(streams)


def test_an_unrolled_model_with_a_head_streams_in_pieces_of_its_length(tmp_path):
    rnn = BNLSTM(3, 6, batch_first=True, max_length=8)
    model = randomize(BNLSTMModel(rnn, 4, pooling="every"))
    export(model, tmp_path / "m.onnx", form="unrolled", length=5)
    assert check(model, tmp_path / "m.onnx").passed
    session = Session(tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((2, 10, 3), dtype=np.float32)
    first, state = session(x[:, :5])
    second, state = session(x[:, 5:], state=state)
    truth, _ = model(torch.from_numpy(x))
    np.testing.assert_allclose(np.concatenate([first, second], 1), truth.detach(), atol=1e-5)
    with pytest.raises(InputError, match=r"\(2, 10, 3\); .* \(batch, 5, 3\), unrolled for T = 5"):
        session(x)
    with pytest.raises(InputError, match="from 1 to 6; pass 0 to 5"):
        session(x[:, :5], lengths=np.array([1, 6]))


def test_materialized_weights_cannot_continue_a_stream(tmp_path):
    model = randomize(BNLSTM(3, 6, max_length=4))
    export(model, tmp_path / "m.onnx", folding="materialized")
    session = Session(tmp_path / "m.onnx")
    x = np.zeros((5, 2, 3), np.float32)
    _, state = session(x)
    assert state.step is None
    with pytest.raises(InputError, match="materialized weights, which cannot continue a stream"):
        session(x, state=state)


def test_a_file_does_not_grow_with_materialized_weights(tmp_path):
    sizes = {}
    for folding in ("factored", "materialized"):
        model = randomize(BNLSTM(2, 32, max_length=40))
        export(model, tmp_path / "m.onnx", folding=folding, force=True)
        sizes[folding] = (tmp_path / "m.onnx").stat().st_size
    weights_of_a_step = 4 * 4 * 32 * 32
    assert sizes["materialized"] < sizes["factored"] + weights_of_a_step


def test_files_that_do_not_say_how_they_stream_are_read(tmp_path):
    export(randomize(BNLSTM(3, 6, max_length=4)), tmp_path / "m.onnx", form="scan")
    properties = {e.key: e.value for e in onnx.load(tmp_path / "m.onnx").metadata_props}
    old = {
        key: value.replace(', "streams": true', "")
        for key, value in properties.items()
        if key.removeprefix("bnlstm.") not in ("reason", "merge_tolerance", "length")
    }
    metadata = Metadata.from_properties(old)
    assert [entry.streams for entry in metadata.layers] == [True]
    assert (metadata.reason, metadata.merge_tolerance, metadata.length) == ("", 0.0, None)


def settling(steps=24, scale=1e-4):
    """A model whose statistics settle: from step 4 on they differ by about `scale`."""
    model = randomize(BNLSTM(3, 6, max_length=steps))
    generator = torch.Generator().manual_seed(0)
    for norm in model.norms("_l0"):
        for rows in (norm.running_mean, norm.running_var):
            rows[4:] = rows[4] * (1 + scale * torch.rand(steps - 4, 1, generator=generator))
    return model


def arrays(path):
    proto = onnx.load(path)
    return {entry.name: numpy_helper.to_array(entry) for entry in proto.graph.initializer}


def test_a_tolerance_changes_the_outputs_by_what_is_measured(tmp_path):
    model = settling()
    exact = export(model, tmp_path / "exact.onnx")
    merged = export(model, tmp_path / "merged.onnx", merge_tolerance=1e-3)
    assert (exact.merge_tolerance, merged.merge_tolerance) == (0.0, 1e-3)
    assert len(arrays(tmp_path / "exact.onnx")["bias_l0"]) == 24
    assert len(arrays(tmp_path / "merged.onnx")["bias_l0"]) == 5
    assert check(model, tmp_path / "exact.onnx").merge_error == 0
    report = check(model, tmp_path / "merged.onnx")
    assert report.passed, report.failures
    assert 1e-6 < report.merge_error < 1e-2
    assert report.merge_error > 10 * max(c.error for c in report.precision)
    assert report.to_dict()["merge_error"] == report.merge_error


def test_a_merged_file_is_held_to_the_float32_error_all_the_same(tmp_path):
    model = settling()
    export(model, tmp_path / "m.onnx", merge_tolerance=1e-3)
    proto = onnx.load(tmp_path / "m.onnx")
    (target,) = (entry for entry in proto.graph.initializer if entry.name == "bias_l0")
    array = numpy_helper.to_array(target).copy()
    array[-1] += 1e-4  # far less than the merge moves it
    target.CopyFrom(numpy_helper.from_array(array, target.name))
    onnx.save(proto, tmp_path / "m.onnx")
    assert not check(model, tmp_path / "m.onnx").passed


def test_the_rows_of_merged_statistics_matter(tmp_path):
    """Timesteps between others that share a row have to find theirs."""
    model = settling(scale=0.0)
    with torch.no_grad():
        model.input_norm_l0.running_mean[9:12] += 1
    export(model, tmp_path / "m.onnx")
    rows = arrays(tmp_path / "m.onnx")["rows_l0"]
    assert rows.tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 4, 5, 5, 5, 6]
    assert check(model, tmp_path / "m.onnx").passed
    proto = onnx.load(tmp_path / "m.onnx")
    (target,) = (entry for entry in proto.graph.initializer if entry.name == "rows_l0")
    target.CopyFrom(numpy_helper.from_array(np.roll(rows, 1), "rows_l0"))
    onnx.save(proto, tmp_path / "m.onnx")
    assert not check(model, tmp_path / "m.onnx").passed


def test_a_learned_initial_state_is_what_streams_start_from(tmp_path):
    model = BNLSTM(3, 6, 2, bidirectional=True, max_length=4, learn_initial_state=True)
    model = randomize(model)
    export(model, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx")
    assert report.passed, report.failures
