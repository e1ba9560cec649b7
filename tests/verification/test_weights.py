"""The checker holds a file with stored weights to those weights, as exactly as any other."""

import copy
import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from bnlstm_deploy.exporting import export
from bnlstm_deploy.exporting.export import fold_layers
from bnlstm_deploy.folding.approximate import Approximation
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.verification import Report, verify
from tests.models import randomize


@pytest.fixture(scope="module")
def model():
    return randomize(BNLSTM(3, 8, 2, max_length=4))


def check(model, path, **options):
    return verify(model, path, search_seconds=0, isolated=False, **options)


def test_h_in_int8_is_checked_on_all_kernels_and_inlined(model, tmp_path):
    for number, options in enumerate(({}, {"form": "unrolled", "length": 5}, {"inline": True})):
        path = tmp_path / f"{number}.onnx"
        export(model, path, weights="int8", activations="int8", **options)
        report = check(model, path)
        assert report.passed, report.stages
        assert report.metadata.activations == "int8"
        (stage,) = (stage for stage in report.stages if stage.name == "cost")
        assert stage.detail.startswith("Storing weights in int8 and rounding h to int8 moves")


@pytest.mark.parametrize("made", [None, "int8"])
def test_a_file_that_says_something_else_of_h_fails(model, made, tmp_path):
    export(model, tmp_path / "m.onnx", weights="int8", activations=made)
    proto = onnx.load(tmp_path / "m.onnx")
    kept = [e for e in proto.metadata_props if e.key not in ("bnlstm.activations", "bnlstm.sha256")]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    if made is None:
        proto.metadata_props.add(key="bnlstm.activations", value="int8")
    onnx.save(proto, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx")
    assert not report.passed
    (finding,) = (f for f in report.structure if f.name == "metadata")
    assert f"and {'a' if made else 'no'} body rounds h" in finding.detail
    assert report.metadata.activations == made


@pytest.mark.parametrize("weights", ["int8", "float16", "bfloat16"])
def test_what_is_stored_is_right_and_what_it_costs_is_said(model, weights, tmp_path):
    export(model, tmp_path / "m.onnx", weights=weights)
    report = check(model, tmp_path / "m.onnx")
    assert report.passed, report.stages
    assert not report.no_native
    assert report.merge_error > 1e-5
    assert report.metadata.weights == weights


def test_what_it_costs_is_measured_against_numpy_and_held_to_a_budget(tmp_path):
    model = BNLSTMModel(randomize(BNLSTM(3, 8, batch_first=True, max_length=4)), 5)
    export(model, tmp_path / "m.onnx", weights="int8")
    generator = np.random.default_rng(0)
    x = generator.standard_normal((6, 4, 3)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(6) % 5)
    data = [tmp_path / "x.npz"]
    report = check(model, tmp_path / "m.onnx", data=data)
    (found,) = report.judged_costs
    with torch.no_grad():
        truth = copy.deepcopy(model).double()(torch.from_numpy(x).double())[0].numpy()
        changed = fold_layers(model, torch.float64, Approximation(weights="int8"))
        moved = np.abs(changed(torch.from_numpy(x).double())[0].numpy() - truth)
    assert found.largest == pytest.approx((moved.max(),), rel=1e-6)
    assert found.mean == pytest.approx((moved.mean(),), rel=1e-6)
    (stage,) = (s for s in report.stages if s.name == "cost")
    assert stage.passed
    assert "on your data" in stage.detail
    assert "of 6 answers agree, accuracy" in stage.detail
    largest = float(moved.max())
    for limit, passed in ((1.01 * largest, True), (0.99 * largest, False)):
        assert check(model, tmp_path / "m.onnx", data=data, budget=limit).passed == passed
        assert report.judged(4.0, limit).passed == passed
        again = Report.from_dict(report.judged(4.0, limit).to_dict())
        assert (again.costs, again.passed) == (report.costs, passed)


def test_what_is_not_a_number_is_over_any_budget(model, tmp_path):
    export(model, tmp_path / "m.onnx", weights="int8")
    report = check(model, tmp_path / "m.onnx")
    first, *rest = report.costs
    wrong = replace(first, largest=(math.nan, *first.largest[1:]))
    for costs in ((wrong, *rest), (*rest, wrong)):
        assert report.judged(4.0, 1e6).passed
        assert not replace(report, costs=costs, cost_limit=1e6).passed


def test_random_inputs_cost_what_the_largest_case_does(model, tmp_path):
    export(model, tmp_path / "m.onnx", weights="bfloat16")
    report = check(model, tmp_path / "m.onnx", budget=0.0)
    assert not report.passed
    assert [stage.name for stage in report.stages if not stage.passed] == ["cost"]
    assert {c.value for c in report.costs} == {"output"}
    assert {len(c.largest) for c in report.costs} == {c.time for c in report.precision}
    assert 0 < max(max(c.largest) for c in report.costs) <= report.merge_error


def test_a_file_that_changes_nothing_has_no_costs(model, tmp_path):
    export(model, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx", budget=0.0)
    assert report.passed
    assert not report.costs


@pytest.mark.parametrize("activations", [None, "int8"])
def test_calibrated_weights_are_those_of_the_model(model, activations, tmp_path):
    """One element on the other side of its neighbours is none of them, nor is another scale."""
    data = [torch.randn(9, 8, 3, generator=torch.Generator().manual_seed(0))]
    options = {"weights": "int8", "activations": activations, "calibration": data}
    export(model, tmp_path / "m.onnx", **options)
    report = check(model, tmp_path / "m.onnx")
    assert report.passed, report.stages
    assert report.metadata.calibrated
    for name, change in (
        ("weight_hh_l1", lambda v: np.where(np.arange(v.size).reshape(v.shape) == 43, -v, v)),
        ("weight_ih_l0", lambda v: v[::-1]),
        ("hidden_scale_l0", lambda v: v * np.float32(1.002)),
    ):
        proto = onnx.load(tmp_path / "m.onnx")
        (entry,) = (e for e in proto.graph.initializer if e.name == name)
        values = np.ascontiguousarray(change(numpy_helper.to_array(entry)))
        entry.CopyFrom(numpy_helper.from_array(values, name))
        seal = [e for e in proto.metadata_props if e.key == "bnlstm.sha256"]
        proto.metadata_props.remove(seal[0])
        onnx.save(proto, tmp_path / "wrong.onnx")
        wrong = check(model, tmp_path / "wrong.onnx")
        assert not wrong.passed
        assert any(f.name == "arrays" and not f.ok for f in wrong.structure), name


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
