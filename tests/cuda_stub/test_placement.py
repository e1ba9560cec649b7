"""The table of kernels and `place`, against where the CUDA provider really runs each node."""

from collections import defaultdict

import onnx
import pytest
import torch
from onnx import parser

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from tests.cuda_stub import kernels
from tests.cuda_stub.cases import DTYPES, KINDS, exists
from tests.cuda_stub.environment import require_stubs
from tests.cuda_stub.measure import CUDA, open_session
from tests.exporting.nodes import all_nodes
from tests.models import randomize
from tools.placement import Status, cuda_table, place
from tools.placement.prepare import prepare

require_stubs()

CPU = "CPUExecutionProvider"
OPSETS = (20, 23)
BODIES = [kind for kind in KINDS if not kind.native]


def test_what_is_measured_is_what_is_found():
    assert kernels.MEASURED.read_text() == kernels.dumps(kernels.measure())


def named(path):
    """A file's graph with functions inlined, and a name of its own for each node."""
    model = prepare(path, cuda_table())
    for number, node in enumerate(all_nodes(model.graph.node)):
        node.name = f"node_{number}"
    return onnx.load_from_string(model.SerializeToString())


def exported(kind, dtype, opset, path, length=4, directions=1):
    model = BNLSTM(
        3,
        8,
        bidirectional=directions == 2,
        max_length=length,
        normalize=kind.normalize,
    )
    export(
        randomize(model),
        path,
        dtype=getattr(torch, dtype),
        form=kind.form,
        folding=kind.folding,
        length=length if kind.form == "unrolled" else None,
        opset=opset,
    )
    return named(path)


def assignments(session):
    """The providers of each node, by name and operator."""
    found = defaultdict(set)
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            found[node.name, node.op_type].add(part.ep_name)
    return found


def loads(model, *, graph=False, launches=None):
    try:
        open_session(model, graph=graph, launches=launches)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(
    ("kind", "dtype", "directions"),
    [
        *(
            (kind, dtype, 1)
            for kind in BODIES[:-1]
            for dtype in DTYPES
            if exists(kind, dtype, 1, 1)
        ),
        (KINDS[0], "float32", 2),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_nodes_are_where_the_table_says(kind, dtype, directions, opset, tmp_path):
    model = exported(kind, dtype, opset, tmp_path / "m.onnx", directions=directions)
    found = assignments(open_session(model, plain=True))
    nodes = place(model)
    assert nodes
    wrong = {}
    for node in nodes:
        where = found[node.name, node.op]
        on_cuda, on_cpu = where == {CUDA}, where == {CPU}
        right = {
            Status.CUDA: on_cuda,
            Status.CPU_SHAPES: on_cuda or on_cpu,
            Status.MISSING: on_cpu,
        }
        if not right[node.status]:
            wrong[node.name, node.op, node.scope] = node.status, where
    assert not wrong
    assert all(node.captures for node in nodes) == loads(model, graph=True)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_nodes_beside_the_native_kernel_are_where_the_table_says(dtype, directions, tmp_path):
    model = BNLSTM(3, 8, bidirectional=directions == 2, max_length=4)
    path = tmp_path / "m.onnx"
    export(randomize(model), path, dtype=getattr(torch, dtype), form="scan", target="cuda")
    model = onnx.load(path)
    for number, node in enumerate(model.graph.node):
        node.name = f"node_{number}"
    found = assignments(open_session(model, plain=True, launches="step"))
    nodes = place(model, native=True)
    assert {node.op for node in nodes} >= {"BNLSTM", "Range", "Min"}
    for node in nodes:
        on_cpu = found[node.name, node.op] == {CPU}
        assert not (on_cpu and node.status is Status.CUDA), node
    assert all(node.captures for node in nodes)
    assert loads(model, graph=True, launches="step")


def graph(text):
    return parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}')


def test_nodes_without_a_cuda_kernel_run_on_the_cpu():
    model = graph("g (int32[2] a, int64[1, 1] k) => (c) { [n] c = GatherND (a, k) }")
    (node,) = place(model)
    assert node.status is Status.MISSING
    assert assignments(open_session(model, plain=True))["n", "GatherND"] == {CPU}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_or_nowhere(dtype):
    model = graph(f"g ({dtype}[2] a) => (c) <int64[2] k = {{0, 1}}> {{ c = Pad (a, k) }}")
    (node,) = place(model)
    assert (node.status is Status.CUDA) == loads(model) == (dtype == "float16")


@pytest.mark.parametrize("length", [31, 37])
def test_long_files_of_bfloat16(length, tmp_path):
    """The Splits of 37 timesteps are of 38, and there is no Pad of bfloat16 to make them."""
    model = exported(KINDS[1], "bfloat16", 20, tmp_path / "m.onnx", length=length)
    assert all(node.status is not Status.MISSING for node in place(model)) == loads(model)
