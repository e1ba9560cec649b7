"""The stages of the check beside precision: file, processes, conditions, search, data, reports."""

import copy
import json
import os
import signal

import numpy as np
import onnx
import pytest
import torch

from bnlstm_deploy.dtypes import EPS
from bnlstm_deploy.errors import InputError, RuntimeSessionError, VerificationError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.metadata import Metadata
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.runtime.kernel import instruction_sets
from bnlstm_deploy.verification import Report, assert_equivalent, record, verify
from bnlstm_deploy.verification.judging.comparison import Comparison
from bnlstm_deploy.verification.judging.structure import check_structure
from bnlstm_deploy.verification.measuring.process import GraphProcess
from tests.models import randomize
from tests.verification.mutants import set_array, times
from tests.verification.quick import check

X = torch.zeros(3, 5, 2)


@pytest.fixture(scope="module")
def model():
    rnn = BNLSTM(2, 6, batch_first=True, max_length=4)
    return randomize(BNLSTMModel(rnn, 3, pooling="every"))


@pytest.fixture
def path(model, tmp_path):
    export(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def changed(path, change):
    proto = onnx.load(path)
    change(proto)
    onnx.save(proto, path)


def stage(report, name):
    return next(stage for stage in report.stages if stage.name == name)


def test_the_whole_check_in_processes_of_their_own(model, path):
    shown = []
    report = verify(model, path, search_seconds=0.3, progress=lambda *now: shown.append(now[0]))
    assert report.passed, report.failures
    names = ["structure", "algebra", "precision", "conditions", "worst case"]
    assert [stage.name for stage in report.stages] == names
    assert {"precision", "conditions", "worst case"} <= set(shown)
    cases = " ".join(c.case for c in report.of_stage("conditions"))
    for words in ("all zero", "huge inputs", "saturating", "streams of NaN", "padding of NaN"):
        assert words in cases
    assert report.worst is not None
    assert report.worst.tried > 1
    assert len(report.worst.stream) == 5
    assert {c.provider for c in report.precision} == {"cpu"}
    curve = next(c for c in report.curves if c.value == "output" and c.time == 8)
    assert len(curve.error) == len(curve.p99) == len(curve.own_error) == 8
    assert max(curve.error) <= max(c.error for c in report.precision if c.time == 8)


def test_a_provider_that_is_not_there_is_an_error(model, path):
    with pytest.raises(RuntimeSessionError, match="'cuda' is not part of"):
        verify(model, path, providers=("cpu", "cuda"))
    with pytest.raises(RuntimeSessionError, match="providers is"):
        verify(model, path, providers=())


def test_a_crash_is_a_failed_stage_and_not_the_end(model, path, monkeypatch):
    runs = []
    run = GraphProcess.run

    def crashing(self, feeds):
        runs.append(feeds)
        if len(runs) == 4:
            os.kill(self._process.pid, signal.SIGSEGV)
            self._process.wait()
        return run(self, feeds)

    monkeypatch.setattr(GraphProcess, "run", crashing)
    report = verify(model, path, search_seconds=0, native=False)
    assert not report.passed
    assert "crashed with SIGSEGV" in stage(report, "providers").detail
    assert len(runs) == 4
    assert len({c.case for c in report.precision}) == 2  # the first run compares the shapes


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda p: set_property(p, "bnlstm.checkpoint_sha256", "0" * 64), "checkpoint hash"),
        (lambda p: p.graph.ClearField("name"), "valid ONNX"),
    ],
)
def test_what_is_wrong_with_the_file_itself_is_found(change, name, model, path):
    changed(path, change)
    report = check(model, path)
    assert not report.passed
    assert name in stage(report, "structure").detail


def test_nodes_are_one_a_layer_and_each_has_its_function(model, path):
    session = Session(path)  # which would refuse the other file

    def nodes():
        (found,) = (f for f in check_structure(model, path, session, [X])[1] if f.name == "nodes")
        return found

    assert nodes().ok
    changed(path, lambda p: p.functions.pop())
    assert not nodes().ok
    assert "1 without a function" in nodes().detail


def test_a_file_that_does_not_load_is_an_error(model, path):
    changed(path, lambda p: p.functions.pop())
    with pytest.raises(RuntimeSessionError, match="cannot load"):
        check(model, path)


def set_property(proto, key, value):
    next(entry for entry in proto.metadata_props if entry.key == key).value = value


def test_the_same_weights_in_another_dtype_are_no_stale_export(path, model):
    report = check(copy.deepcopy(model).double(), path)
    assert stage(report, "structure").passed


def test_streams_that_reach_others_are_found(model, path):
    """A body in which each stream's gates have a little of the batch's mean in them."""
    changed(path, leak)
    report = check(model, path)
    assert not report.passed
    assert not stage(report, "conditions").passed


def leak(proto):
    """Add a millionth of the batch's mean to the gates: nothing, unless a stream is huge."""
    (function,) = proto.functions
    body = list(function.node)
    index = next(i for i, node in enumerate(body) if node.output[0] == "gates_x")
    body[index].output[0] = "gates_clean"
    nodes = [
        onnx.helper.make_node("Constant", [], ["leak_axis"], value_ints=[1]),
        onnx.helper.make_node("ReduceMean", ["gates_clean", "leak_axis"], ["leak_mean"]),
        onnx.helper.make_node("Constant", [], ["leak_size"], value_float=1e-9),
        onnx.helper.make_node("Mul", ["leak_mean", "leak_size"], ["leaked"]),
        onnx.helper.make_node("Add", ["gates_clean", "leaked"], ["gates_x"]),
    ]
    del function.node[:]
    function.node.extend([*body[: index + 1], *nodes, *body[index + 1 :]])


def test_data_of_ones_own(model, path, tmp_path):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((40, 5, 2)).astype(np.float32)
    with torch.no_grad():
        y = model(torch.from_numpy(x))[0].argmax(-1).numpy()
    y[:10] = (y[:10] + 1) % 3
    np.savez(tmp_path / "x.npz", x=x)
    np.savez(tmp_path / "y.npz", y=y)
    report = check(model, path, data=[tmp_path / "x.npz", tmp_path / "y.npz"], native=True)
    assert report.passed
    assert len(report.agreements) == 1 + len(instruction_sets())
    for agreement in report.agreements:
        assert (agreement.answers, agreement.agreeing) == (200, 200)
        assert (agreement.labelled, agreement.correct, agreement.correct_truth) == (200, 150, 150)
    assert "accuracy 75.00 % against 75.00 %" in stage(report, "data").detail
    changed(path, set_array("head.bias", lambda v: v + np.array([9, 0, 0], np.float32)))
    worse = check(model, path, data=[tmp_path / "x.npz", tmp_path / "y.npz"])
    assert all(agreement.agreeing < 200 for agreement in worse.agreements)
    np.savez(tmp_path / "z.npz", z=x)
    measured = []
    with pytest.raises(InputError, match=r"the data holds the arrays \['z'\]"):
        check(model, path, data=[tmp_path / "z.npz"], progress=lambda *now: measured.append(now))
    assert not measured
    with pytest.raises(InputError, match=r"holds \['x'\], which a file before it holds, too"):
        check(model, path, data=[tmp_path / "x.npz", tmp_path / "x.npz"])


def test_reports_survive_json_and_are_judged_anew(model, path):
    changed(path, set_array("cell_shift_l0", lambda v: v * np.float32(np.nan)))
    report = check(model, path)
    assert not report.passed
    text = json.dumps(report.to_dict(), allow_nan=False)
    again = Report.from_dict(json.loads(text))
    assert json.dumps(again.to_dict()) == text
    with pytest.raises(VerificationError, match="schema_version is 99"):
        Report.from_dict({"schema_version": 99})
    with pytest.raises(VerificationError, match="damaged"):
        Report.from_dict({"schema_version": 1})


def test_another_ratio_is_another_verdict(model, path):
    changed(path, set_array("bias_l0", lambda v: v + np.float32(1e-5)))
    report = check(model, path)
    assert not report.passed
    assert stage(report.judged(1e6), "precision").passed
    assert not stage(report.judged(1e6).judged(4), "precision").passed


def test_a_passed_check_is_written_into_the_file(model, path):
    before = onnx.load(path)
    report = check(model, path)
    record(report, path)
    record(report, path)
    after = onnx.load(path)
    verified = Session(path).metadata.verified
    assert verified["ratio"] == f"{report.ratio:.3g}"
    assert set(verified) >= {"date", "truth_error", "versions", "providers"}
    assert after.graph == before.graph
    keys = [entry.key for entry in after.metadata_props]
    assert len(keys) == len(set(keys))
    assert check(model, path).passed
    changed(path, set_array("bias_l0", times(1.1)))
    with pytest.raises(VerificationError, match="the check failed"):
        record(check(model, path), path)


def test_assert_equivalent(model, path):
    assert assert_equivalent(model, path, isolated=False, search_seconds=0).passed
    changed(path, set_array("bias_l0", times(1.1)))
    with pytest.raises(AssertionError, match=r"(?s)precision: .*failed.*error .* allowed"):
        assert_equivalent(model, path, isolated=False, search_seconds=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_budgets_of_reduced_precision(dtype):
    facts = {"activation_error": 0.0, "magnitude": 1.0}
    comparison = Comparison(
        "precision", "", 3, "output", 0.01, 0.01, own_error=0.004, fold_error=0.003, **facts
    )
    metadata = Metadata("0", (), "scan", "factored", dtype)
    report = Report((comparison,), metadata, "0", ratio_limit=4.0, seed=0)
    assert report.budget(comparison) == pytest.approx(0.016 + EPS[dtype])
    assert not report.failures
    assert report.judged(0.0).budget(comparison) == pytest.approx(EPS[dtype])
