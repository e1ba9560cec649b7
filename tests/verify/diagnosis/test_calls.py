"""diagnose(): mistakes in how layers are run are found for what they are."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnlstm_deploy.export.values import NO_LENGTH
from tests.export.nodes import all_nodes
from tests.verify.diagnosis.faults import H, N, T, node_of, replaced, run_diagnosis, with_array


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


def best_of(model, proto, tmp_path, **arguments):
    diagnosis = run_diagnosis(model, proto, tmp_path, **arguments)
    return diagnosis.hypotheses[0].name, diagnosis.origin.intermediate


def test_lengths_ignored(model, proto, tmp_path):
    changed = with_input(proto, "lengths", np.array([NO_LENGTH]))
    assert best_of(model, changed, tmp_path) == ("lengths ignored", "lengths")


def test_start_step_ignored(model, proto, tmp_path):
    changed = with_input(proto, "start_step", np.array([0]))
    assert best_of(model, changed, tmp_path) == ("start_step ignored", "start step")


def test_initial_h_ignored(model, proto, tmp_path):
    changed = with_input(proto, "initial_h", np.zeros((1, H), np.float32))
    assert best_of(model, changed, tmp_path) == ("initial h ignored", "initial state")


def test_initial_states_swapped_or_ignored(model, proto, tmp_path):
    swapped = onnx.ModelProto()
    swapped.CopyFrom(proto)
    node = node_of(swapped, "bias_l0")
    node.input[4], node.input[5] = node.input[5], node.input[4]
    assert best_of(model, swapped, tmp_path) == ("initial h and c swapped", "initial state")
    zeros = with_input(proto, "initial_h", np.zeros((1, H), np.float32))
    node_of(zeros, "bias_l0").input[5] = "constant"
    assert best_of(model, zeros, tmp_path) == ("initial state ignored", "initial state")


def test_a_wrong_default_state(model, proto, tmp_path):
    changed = with_array(proto, "initial_c", lambda a: a + np.float32(0.1))
    diagnosis = run_diagnosis(model, changed, tmp_path, states=False)
    assert [d.name for d in diagnosis.arrays] == ["initial_c"]
    assert diagnosis.origin.intermediate == "initial state"
    assert diagnosis.hypotheses[0].name.endswith("fold: initial_c")


def test_directions_swapped(deep, deep_proto, tmp_path):
    changed = onnx.ModelProto()
    changed.CopyFrom(deep_proto)
    for entry in changed.graph.initializer:
        if entry.name.endswith("_reverse"):
            entry.name = entry.name.removesuffix("_reverse")
        elif entry.name.endswith(("_l0", "_l1")):
            entry.name += "_reverse"
    assert best_of(deep, changed, tmp_path)[0] == "directions swapped"


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
    found = best_of(deep, changed, tmp_path)
    assert found == ("reverse direction not reversed", "layer input")
    changed = with_reversals(deep_proto, lambda number, node: number % 2 and as_identity(node))
    found = best_of(deep, changed, tmp_path)
    assert found == ("output of the reverse direction not turned back", "layer input")


def test_the_padding_reversed_too(deep, deep_proto, tmp_path):
    """In a graph that takes no other sizes, so that the inputs cannot be narrowed."""
    whole = with_reversals(deep_proto, lambda number, node: node.input.__setitem__(1, "whole"))
    whole.graph.initializer.append(numpy_helper.from_array(np.full(N, T), "whole"))
    diagnosis = run_diagnosis(deep, whole, tmp_path)
    assert (diagnosis.stream, diagnosis.time) == (None, T)
    name = "reverse direction reversed over the padding, too"
    assert diagnosis.hypotheses[0].name == name
    assert (diagnosis.origin.intermediate, diagnosis.origin.stream) != ("layer input", 0)
    assert diagnosis.origin.intermediate == "layer input"


def test_states_and_outputs_past_the_length(model, proto, tmp_path):
    changed = replaced(proto, "Y_h_ragged", "Identity", ["h_last"])
    lost = "c_new"
    for function in changed.functions:
        for node in all_nodes(function.node):
            if node.op_type == "Where" and lost in node.output:
                node.input[2] = node.input[1]
    name = "final state of the last timestep, not of the last valid one"
    assert best_of(model, changed, tmp_path)[0] == name
    changed = replaced(proto, "y", "Identity", ["h_new"])
    name = "output not 0 past the length, with c held"
    assert best_of(model, changed, tmp_path)[0] == name


@pytest.mark.parametrize(
    ("name", "element"), [("float16", TensorProto.FLOAT16), ("bfloat16", TensorProto.BFLOAT16)]
)
def test_reduced_precision(name, element, model, proto, tmp_path):
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
    names = [h.name for h in diagnosis.hypotheses]
    words = "reduced precision: operands of the matrix products rounded to "
    # float16 and TF32 have the same number of bits
    assert names == ([f"{words}TF32", f"{words}float16"] if name == "float16" else [words + name])
    assert diagnosis.hypotheses[0].ambiguous == (name == "float16")
    assert diagnosis.origin.intermediate in ("input product", "hidden product")
