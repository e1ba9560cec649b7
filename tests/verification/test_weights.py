"""The checker holds a file with stored weights to those weights, as exactly as any other."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.verification import verify
from tests.models import randomize


@pytest.fixture(scope="module")
def model():
    return randomize(BNLSTM(3, 8, 2, max_length=4))


def check(model, path):
    return verify(model, path, search_seconds=0, isolated=False)


@pytest.mark.parametrize("weights", ["int8", "float16", "bfloat16"])
def test_what_is_stored_is_right_and_what_it_costs_is_said(model, weights, tmp_path):
    export(model, tmp_path / "m.onnx", weights=weights)
    report = check(model, tmp_path / "m.onnx")
    assert report.passed, report.stages
    assert not report.no_native
    assert report.merge_error > 1e-5
    assert report.metadata.weights == weights


def test_one_element_that_is_off_by_one_is_found(model, tmp_path):
    export(model, tmp_path / "m.onnx", weights="int8")
    proto = onnx.load(tmp_path / "m.onnx")
    (entry,) = (e for e in proto.graph.initializer if e.name == "weight_hh_l1")
    values = numpy_helper.to_array(entry).copy()
    values[5, 3] += 1 if values[5, 3] < 127 else -1
    entry.CopyFrom(numpy_helper.from_array(values, entry.name))
    del proto.metadata_props[-1]  # the seal
    onnx.save(proto, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx")
    assert not report.passed
    (finding,) = (f for f in report.structure if not f.ok)
    assert "weight_hh_l1: 1 of 256 elements differ" in finding.detail


@pytest.mark.parametrize(
    ("made", "claimed"),
    [("int8", "bfloat16"), ("int8", None), ("bfloat16", "float16"), (None, "int8")],
)
def test_a_file_that_says_something_else_of_its_weights_fails(model, made, claimed, tmp_path):
    export(model, tmp_path / "m.onnx", weights=made)
    proto = onnx.load(tmp_path / "m.onnx")
    kept = [e for e in proto.metadata_props if e.key not in ("bnlstm.weights", "bnlstm.sha256")]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    if claimed is not None:
        proto.metadata_props.add(key="bnlstm.weights", value=claimed)
    onnx.save(proto, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx")
    assert not report.passed
    assert any(f.name == "metadata" and not f.ok for f in report.structure)


def test_stored_float16_is_no_reason_for_another_budget(model, tmp_path):
    """A graph of float32 that says it is one of float16 may not have the errors of float16."""
    export(model, tmp_path / "m.onnx", weights="float16")
    proto = onnx.load(tmp_path / "m.onnx")
    kept = [e for e in proto.metadata_props if e.key not in ("bnlstm.weights", "bnlstm.sha256")]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    for entry in proto.metadata_props:
        if entry.key == "bnlstm.dtype":
            entry.value = "float16"
    (weight,) = (e for e in proto.graph.initializer if e.name == "bias_l0")
    values = numpy_helper.to_array(weight) * np.float32(1 + 1e-4)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(proto, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx")
    assert not report.passed
    (finding,) = (f for f in report.structure if f.name == "metadata")
    assert "dtype is float16, the weights are float16, and cast to float32" in finding.detail
    assert report.metadata.dtype == "float32"
