"""diagnose(): a mistake in how layers are run is found where it is."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnlstm_deploy.metadata import NO_LENGTH
from tests.verification.diagnosis.faults import H, N, T, run_diagnosis, with_array


def with_input(proto, kind, value):
    """Give every BNLSTM node a constant in the place of an input."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    changed.graph.initializer.append(numpy_helper.from_array(value, "constant"))
    position = {"initial_h": 4, "initial_c": 5, "lengths": 10, "start_step": 11}[kind]
    for node in changed.graph.node:
        if node.op_type == "BNLSTM":
            node.input[position] = "constant"
    return changed


def origin_of(model, proto, tmp_path, **arguments):
    return run_diagnosis(model, proto, tmp_path, **arguments).origin.intermediate


@pytest.mark.parametrize(
    ("kind", "value", "intermediate"),
    [
        ("lengths", np.array([NO_LENGTH]), "lengths"),
        ("start_step", np.array([0]), "start step"),
        ("initial_h", np.zeros((1, H), np.float32), "initial state"),
        ("initial_c", np.zeros((1, H), np.float32), "initial state"),
    ],
)
def test_an_input_ignored(kind, value, intermediate, model, proto, tmp_path):
    changed = with_input(proto, kind, value)
    assert origin_of(model, changed, tmp_path) == intermediate


def test_a_wrong_default_state(model, proto, tmp_path):
    changed = with_array(proto, "initial_c", lambda a: a + np.float32(0.1))
    diagnosis = run_diagnosis(model, changed, tmp_path, states=False)
    assert [d.name for d in diagnosis.arrays] == ["initial_c"]
    assert diagnosis.origin.intermediate == "initial state"
    assert diagnosis.hypotheses[0].name.endswith("fold: initial_c")


def with_reversals(proto, change):
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    nodes = [node for node in changed.graph.node if node.op_type == "ReverseSequence"]
    assert len(nodes) == 4  # into a reverse direction and out of it, in two layers
    for number, node in enumerate(nodes):
        change(number, node)
    return changed


def as_identity(node):
    node.op_type = "Identity"
    del node.attribute[:], node.input[1:]


def test_the_reverse_direction_not_reversed(deep, deep_proto, tmp_path):
    changed = with_reversals(deep_proto, lambda number, node: as_identity(node))
    assert origin_of(deep, changed, tmp_path) == "layer input"
    changed = with_reversals(deep_proto, lambda number, node: number % 2 and as_identity(node))
    assert origin_of(deep, changed, tmp_path) == "layer input"


def test_the_padding_reversed_too(deep, deep_proto, tmp_path):
    """In a graph that takes no other sizes, so that the inputs cannot be narrowed."""
    whole = with_reversals(deep_proto, lambda number, node: node.input.__setitem__(1, "whole"))
    whole.graph.initializer.append(numpy_helper.from_array(np.full(N, T), "whole"))
    diagnosis = run_diagnosis(deep, whole, tmp_path)
    assert (diagnosis.stream, diagnosis.time) == (None, T)
    assert (diagnosis.origin.intermediate, diagnosis.origin.stream) != ("layer input", 0)
    assert diagnosis.origin.intermediate == "layer input"


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_reduced_precision(element, model, proto, tmp_path):
    """The operands of all matrix products in the body go through another type."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)

    def coarsen(nodes, tag):
        for position, node in reversed(list(enumerate(nodes))):
            for number, attribute in enumerate(node.attribute):
                if attribute.HasField("g"):
                    coarsen(attribute.g.node, f"{tag}_{position}_{number}")
            if node.op_type != "MatMul":
                continue
            for number, operand in enumerate(list(node.input)):
                coarse, back = (f"{tag}_{position}_{number}_{end}" for end in ("coarse", "back"))
                node.input[number] = back
                up = helper.make_node("Cast", [coarse], [back], to=TensorProto.FLOAT)
                down = helper.make_node("Cast", [operand], [coarse], to=element)
                nodes.insert(position, up)
                nodes.insert(position, down)

    for function in changed.functions:
        coarsen(function.node, "cast")
    diagnosis = run_diagnosis(model, changed, tmp_path)
    assert diagnosis.origin.intermediate in ("input product", "hidden product")
