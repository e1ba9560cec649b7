"""The check runs every branch of the layers' bodies, and says if it could not."""

import onnx
import pytest
import torch

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.verification.measuring.branches import Branches
from bnlstm_deploy.verification.measuring.cases import Case
from tests.exporting.nodes import all_nodes
from tests.models import randomize
from tests.native.version_file import FOLDER, make_model
from tests.verification.quick import check

OLD = FOLDER / "version_0_1_0.onnx"
"""Has the form lstm-or-scan, with H = 5: an If over N, and in one branch one over the lengths."""

FEWEST = 32768 // 5**2 + 1
"""Streams for which it takes its Scan."""


def sample(generator, batch, time):
    return [torch.from_numpy(generator.standard_normal((time, batch, 3), "float32"))]


def scan_branches():
    """The branches of the file that no fewer streams than FEWEST run."""
    proto = onnx.load(OLD)
    (either,) = (f for f in proto.functions if f.overload.startswith("lstm-or-scan"))
    (outer,) = (node for node in either.node if node.op_type == "If")
    (many,) = (a.g for a in outer.attribute if a.name == "else_branch")
    return proto, many


@pytest.fixture(scope="module")
def model():
    return make_model()


def test_all_branches_of_an_old_file_run(model):
    report = check(model, OLD, sample=sample)
    assert report.passed, [stage for stage in report.stages if not stage.passed]
    cases = {comparison.case for comparison in report.precision}
    assert f"T=2, N={FEWEST}, random state, random lengths" in cases
    assert f"T=2, N={FEWEST}, random state" in cases
    (finding,) = (f for f in report.structure if f.name == "branches")
    assert finding.ok
    assert finding.detail == "all 6 branches of the layers' bodies were run"


@pytest.mark.parametrize("branch", ["then_branch", "else_branch"])
def test_a_mistake_in_a_branch_for_many_streams_is_found(branch, model, tmp_path):
    proto, many = scan_branches()
    (inner,) = (node for node in many.node if node.op_type == "If")
    (graph,) = (a.g for a in inner.attribute if a.name == branch)
    o_gate = [node for node in all_nodes(graph.node) if node.op_type == "Sigmoid"][-1]
    o_gate.op_type = "Tanh"
    onnx.save(proto, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx", sample=sample)
    assert not report.passed
    assert all(f"N={FEWEST}" in failure.case for failure in report.failures)


def test_a_branch_that_is_never_run_is_a_finding(model, tmp_path):
    proto, _ = scan_branches()
    (either,) = (f for f in proto.functions if f.overload.startswith("lstm-or-scan"))
    (most,) = (n for n in either.node if n.output[0] == "most")
    most.attribute[0].i = 2**40
    onnx.save(proto, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx", sample=sample)
    assert not report.passed
    (finding,) = (f for f in report.structure if f.name == "branches")
    assert finding.detail.startswith("of 6 were never run: If 2: else")


def test_an_unrolled_file_has_none(tmp_path):
    model = randomize(BNLSTM(3, 4, max_length=3))
    export(model, tmp_path / "m.onnx", form="unrolled", length=3)
    branches = Branches(onnx.load(tmp_path / "m.onnx"), pytest.fail)
    assert branches.ran == {}
    assert branches.finding.ok
    assert branches.case(lambda case: {}, 100, None) is None


def test_lengths_above_t_and_far_steps_are_run(tmp_path):
    model = randomize(BNLSTM(3, 4, max_length=3))
    export(model, tmp_path / "m.onnx")
    cases = {c.case for c in check(model, tmp_path / "m.onnx").precision}
    for ending in ("lengths above T", "far steps", "all lengths"):
        assert any(case.endswith(ending) for case in cases), ending
    assert any("N=130" in case for case in cases)
    assert any("T=19, N=1" in case for case in cases)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Min", "ReduceMin"])
def test_a_lost_clamp_is_found(kind, tmp_path):
    """Without it, start steps past the end, or lengths above T, are other rows or other states."""
    model = randomize(BNLSTM(3, 4, max_length=3))
    export(model, tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    nodes = [n for n in all_nodes(proto.functions[0].node) if n.op_type == kind]
    assert nodes
    for node in nodes:
        changed = onnx.ModelProto()
        changed.CopyFrom(proto)
        (same,) = (n for n in all_nodes(changed.functions[0].node) if n.output[0] == node.output[0])
        same.op_type = {"Min": "Max", "ReduceMin": "ReduceMax"}[kind]
        onnx.save(changed, tmp_path / "changed.onnx")
        assert not check(model, tmp_path / "changed.onnx").passed


class Threshold(Branches):
    """A branch for more than so many streams."""

    def __init__(self, most):
        self.ran = {"few": True, "many": False}
        self.drawn = []
        self._most = most

    def _of(self, feeds):
        self.drawn.append(feeds["batch"])
        return ["many" if feeds["batch"] > self._most else "few"]


@pytest.mark.parametrize("most", [0, 1, 2, 3, 4, 7, 8, 99, 127])
def test_the_fewest_streams_that_run_a_branch_are_found(most):
    branches = Threshold(most)
    case = branches.case(lambda case: {"batch": case.batch}, 130, "random")
    assert case == Case(2, most + 1, state=True, lengths="random")
    assert max(branches.drawn) <= 130
    assert len(branches.drawn) == len(set(branches.drawn)) <= 2 * 8
    branches.note({"batch": most + 1})
    assert branches.case(lambda case: {"batch": case.batch}, 130, None) is None


def test_as_many_streams_are_tried_as_fit():
    case = Threshold(99).case(lambda case: {"batch": case.batch}, 100, None)
    assert case == Case(2, 100, state=True)


def test_no_more_streams_are_tried_than_fit():
    branches = Threshold(100)
    assert branches.case(lambda case: {"batch": case.batch}, 100, None) is None
    assert branches.drawn == [1, 2, 4, 8, 16, 32, 64, 100]
    assert branches.finding.detail == "of 2 were never run: many"
