"""CUDA graphs: captured once, replayed by one launch, and reading no memory that is gone."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnlstm_deploy.exporting.forms import unrolled
from tests.cuda_stub import counts
from tests.cuda_stub.cases import FILES, GIVEN, LENGTHS
from tests.cuda_stub.environment import require_stubs
from tests.cuda_stub.launches import load
from tests.cuda_stub.measure import bind, counted, feeds, open_session

require_stubs()

KEPT_SINCE = (1, 30)
"""ONNX Runtime 1.28 frees the host memory that Splits read in a replay, 1.30 and 1.31 keep it."""

OVERWRITTEN = "replay of host memory that was overwritten or freed"
T = LENGTHS[-1]
MANY = 40
UNCAPTURED = ort.RunOptions()
UNCAPTURED.add_run_config_entry("gpu_graph_id", "-1")


def run(session, binding, options=None):
    with counted() as results:
        session.run_with_iobinding(binding, options)
    return results[0]


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize(
    "file",
    [file for file in FILES if file.kind.form == "unrolled"],
    ids=lambda file: f"{file.kind.folding}-{file.layers}-{file.directions}-{file.dtype}",
)
def test_a_captured_graph_is_one_launch_and_needs_no_host_memory(file, given, folder):
    session = open_session(file.write(folder, T), graph=True)
    arrays = feeds(file, given, T)
    binding, other = bind(session, arrays), bind(session, arrays)
    first = run(session, binding)
    assert first.graphs == {"capture": 1, "launch": 1}
    assert not first.errors
    captured = first.captured
    assert captured.keys() <= {"kernels", "gemms", "copies"}
    assert captured.get("copies", {}).keys() <= {"D2D"}
    what = (file.kind.folding, file.layers, file.directions, file.dtype, given)
    (row,) = (
        row
        for row in load()
        if row.form == "unrolled"
        and (row.folding, row.layers, row.directions, row.dtype, row.given) == what
    )
    for name, counter in (("kernels", captured["kernels"]), ("products", captured["gemms"])):
        assert counter.total() == T * row.step[name] + row.rest[name]

    for _ in range(2):
        replay = run(session, binding)
        assert replay.graphs == {"launch": 1}
        assert not replay.kernels | replay.gemms | replay.copies | replay.allocations
        assert not replay.errors
        between = run(session, other, UNCAPTURED)  # what a pool may give memory of the graph to
        assert between.kernels == captured["kernels"]


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("folding", ["factored", "materialized"])
def test_so_are_more_timesteps_than_a_split_may_have_outputs(folding, wide, tmp_path, monkeypatch):
    if wide:
        monkeypatch.setattr(unrolled, "WIDTH", MANY)  # what the trees of Splits and Concats avoid
    file = next(f for f in FILES if (f.kind.form, f.kind.folding) == ("unrolled", folding))
    session = open_session(file.write(tmp_path, MANY), graph=True)
    binding = bind(session, feeds(file, "", MANY))
    if wide:
        with pytest.raises(Exception, match="at most 32 inputs during CUDA Graph capture"):
            run(session, binding)
        assert counts.read().captured["copies"]["H2D"] > 0
    else:
        first = run(session, binding)
        assert first.graphs == {"capture": 1, "launch": 1}
        assert first.captured.get("copies", {}).keys() <= {"D2D"}
        assert not first.errors
        assert run(session, binding).graphs == {"launch": 1}


def split(sizes, axis):
    """A model whose last node is a Split."""
    shape = [4, 4]
    shape[axis] = sum(sizes)
    shapes = [[size if a == axis else d for a, d in enumerate(shape)] for size in sizes]
    names = [f"part_{number}" for number in range(len(sizes))]
    nodes = [
        helper.make_node("Mul", ["input", "input"], ["square"]),
        helper.make_node("Split", ["square", "sizes"], names, axis=axis),
    ]
    graph = helper.make_graph(
        nodes,
        "split",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, s)
            for name, s in zip(names, shapes, strict=True)
        ],
        [numpy_helper.from_array(np.array(sizes), "sizes")],
    )
    opset = helper.make_opsetid("", 20)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model, shape


@pytest.mark.parametrize(
    ("sizes", "axis", "reads"),
    [
        ([2] * 32, 0, 0),
        ([2] * 33, 0, 1),
        ([1, 3], 0, 4),
        ([1, 3, 1, 1, 1], 1, 4),
        ([1, 1, 1, 1], 1, 0),
    ],
    ids=["32 equal", "33 equal", "2 unequal outer", "5 unequal inner", "4 equal inner"],
)
def test_wide_and_unequal_splits_read_host_memory_in_a_replay(sizes, axis, reads):
    """Why the form unrolled has none: older versions of ONNX Runtime free that memory."""
    model, shape = split(sizes, axis)
    session = open_session(model, graph=True)
    arrays = {"input": np.zeros(shape, np.float32)}
    binding, other = bind(session, arrays), bind(session, arrays)
    assert run(session, binding).captured.get("copies", {}) == ({"H2D": reads} if reads else {})
    assert not run(session, binding).errors
    run(session, other, UNCAPTURED)  # into other outputs: other addresses are in what Split reads
    version = tuple(map(int, ort.__version__.split(".")[:2]))
    errors = run(session, binding).errors
    assert errors.keys() == ({OVERWRITTEN} if reads and version < KEPT_SINCE else set())


def test_a_concat_of_33_is_refused_while_capturing():
    """The other half of why nothing in the form unrolled is wider than 32."""
    for width in (32, 33):
        nodes = [helper.make_node("Concat", ["input"] * width, ["all"], axis=0)]
        graph = helper.make_graph(
            nodes,
            "concat",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [4, 4])],
            [helper.make_tensor_value_info("all", TensorProto.FLOAT, [4 * width, 4])],
        )
        opset = helper.make_opsetid("", 20)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
        session = open_session(model, graph=True)
        binding = bind(session, {"input": np.zeros((4, 4), np.float32)})
        if width == 32:
            assert run(session, binding).graphs == {"capture": 1, "launch": 1}
        else:
            with pytest.raises(Exception, match="at most 32 inputs during CUDA Graph capture"):
                run(session, binding)
