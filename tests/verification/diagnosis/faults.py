"""Makes exports with a fault in them, and diagnoses them."""

import numpy as np
import onnx
from onnx import numpy_helper

from bnlstm_deploy.exporting import export
from bnlstm_deploy.folding import fold
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.normalizations import PATHS
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.verification.diagnosis import diagnose
from bnlstm_deploy.verification.measuring.process import Graph
from tests.exporting.nodes import all_nodes
from tests.models import randomize

T, N, D, H, S = 9, 3, 6, 6, 5
TOLERANCE = 1e-5


def make(arguments=None, seed=0, **more):
    given = {"max_length": S, "beta": PATHS} | (arguments or {}) | more
    return randomize(BNLSTM(D, H, **given), seed)


def exported(model, folder, **arguments):
    path = folder / "m.onnx"
    export(model, path, force=True, **arguments)
    return onnx.load(path)


def sizes_of(value, time):
    return [
        size if isinstance(size, int) else time if size == "time" else N for size in value.shape
    ]


def inputs(session: Graph, time=T, states=True, lengths=True):
    """Random inputs; all that the graph takes."""
    generator = np.random.default_rng(5)
    values = {}
    for value in (*session.inputs, *session.state_inputs):
        if value.name.endswith("lengths"):
            array = np.array([time, time - 3, time - 1]) if lengths else None
        elif value.name.endswith("start_step"):
            array = np.array([0, 2, 1]) if states else None
        elif value.name.endswith(("initial_h", "initial_c")):
            array = generator.uniform(-1, 1, sizes_of(value, time))
            array = array if states else None
        else:
            array = generator.standard_normal(sizes_of(value, time))
        if array is not None:
            values[value.name] = array.astype(value.dtype)
    return values


def run_diagnosis(model, proto, tmp_path, run=None, time=T, states=True, lengths=True, **feeds):
    path = tmp_path / "changed.onnx"
    onnx.save(proto, path)
    session = Session(path, native=False)  # the faults are in the function's body
    given = inputs(session, time, states, lengths) | feeds
    names = [value.name for value in (*session.outputs, *session.state_outputs)]
    tolerance = dict.fromkeys(names, TOLERANCE)
    return diagnose(model, path, given, run=run or session.run, tolerance=tolerance)


def with_array(proto, name, change):
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    (target,) = (entry for entry in changed.graph.initializer if entry.name == name)
    array = change(numpy_helper.to_array(target).copy())
    target.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return changed


def with_arrays_of(proto, altered):
    """Put the fold of another model into a file; its metadata stay."""
    suffixes = [suffix for _, suffix in altered.directions()]
    folds = [direction for layer in fold(altered).layers for direction in layer]
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for suffix, direction in zip(suffixes, folds, strict=True):
        for entry in changed.graph.initializer:
            if entry.name.endswith(suffix):
                array = getattr(direction, entry.name.removesuffix(suffix)).astype(np.float32)
                entry.CopyFrom(numpy_helper.from_array(array, entry.name))
    return changed


def replaced(proto, output, op_type, names):
    """Let the nodes that compute `output` in the function bodies compute something else."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    nodes = [n for f in changed.functions for n in all_nodes(f.node) if output in n.output]
    assert nodes
    for node in nodes:
        node.op_type = op_type
        del node.attribute[:], node.input[:]
        node.input.extend(names)
    return changed


def node_of(proto, array):
    (node,) = (n for n in proto.graph.node if n.op_type == "BNLSTM" and array in n.input)
    return node
