"""Models of a single `bnlstm::BNLSTM` node, and what they should compute."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from bnlstm_deploy.exporting import forms, op
from bnlstm_deploy.exporting.forms.parts import Site
from bnlstm_deploy.folding import FoldedDirection

AXES = {"X": 3, "initial_h": 2, "initial_c": 2, "lengths": 1, "start_step": 1}
"""The inputs that are inputs of the graph, and their ranks; the others are initializers."""

Feeds = dict[str, Any]


def make_site(
    direction: FoldedDirection, present: Sequence[str], opset: int = 20, time: int | None = None
) -> Site:
    rows = direction.rows if "rows" in present else np.arange(len(direction.bias))
    return Site(
        present=tuple(name for name in op.Inputs._fields if name in present),
        opset=opset,
        hidden_size=direction.hidden_size,
        num_rows=len(direction.bias),
        rows=tuple(rows.tolist()),
        time=time,
    )


def make_model(
    direction: FoldedDirection,
    present: Sequence[str],
    form: str = "scan",
    folding: str = "factored",
    *,
    opset: int = 20,
    dtype: type = np.float64,
    time: int | None = None,
) -> onnx.ModelProto:
    """A model of one node; weights are initializers, everything else inputs of any shape."""
    function = forms.function(form, folding, make_site(direction, present, opset, time))
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    names = [name if name in present else "" for name in op.Inputs._fields]
    while not names[-1]:
        names.pop()
    node = helper.make_node(op.NAME, names, op.OUTPUTS, domain=op.DOMAIN)
    node.overload = function.overload
    inputs = [
        helper.make_tensor_value_info(
            name,
            onnx.TensorProto.INT64 if rank == 1 else element,
            [f"{name}_{axis}" for axis in range(rank)],
        )
        for name, rank in AXES.items()
        if name in present
    ]
    outputs = [
        helper.make_tensor_value_info(name, element, [f"{name}_{axis}" for axis in range(rank)])
        for name, rank in zip(op.OUTPUTS, (3, 2, 2), strict=True)
    ]
    initializers = []
    for name in present:
        if name not in AXES:
            array = getattr(direction, name)
            array = array if array.dtype == np.int64 else array.astype(dtype)
            initializers.append(numpy_helper.from_array(array, name))
    graph = helper.make_graph([node], "test", inputs, outputs, initializers)
    model = helper.make_model(
        graph,
        functions=[function],
        opset_imports=[
            helper.make_opsetid("", opset),
            helper.make_opsetid(op.DOMAIN, op.VERSION),
        ],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def make_call(generator: np.random.Generator, time: int, batch: int, d: FoldedDirection) -> Feeds:
    """Values of the inputs in AXES; lengths and start steps differ within the batch."""
    return {
        "X": generator.standard_normal((time, batch, d.input_size)),
        "initial_h": generator.uniform(-1, 1, (batch, d.hidden_size)),
        "initial_c": generator.standard_normal((batch, d.hidden_size)),
        "lengths": generator.integers(0, time + 1, batch),
        "start_step": generator.integers(0, d.steps + 2, batch),
    }


def feeds_of(call: Feeds, present: Sequence[str], dtype: type = np.float64) -> Feeds:
    """What is fed of a call: the inputs that are not left empty, in the graph's dtype."""
    feeds = {name: array for name, array in call.items() if name in present}
    return {n: a if a.dtype == np.int64 else a.astype(dtype) for n, a in feeds.items()}


def session(model: onnx.ModelProto, optimized: Any = None) -> ort.InferenceSession:
    """Load a model; `optimized` is a path to which the graph that is run is written."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(model.SerializeToString(), options)


def expected(direction: FoldedDirection, present: Sequence[str], call: Feeds) -> Sequence[Any]:
    """What `FoldedDirection.run` computes with the absent inputs at their defaults."""
    changes = {
        name: np.full_like(getattr(direction, name), 0.0 if name == "cell_shift" else 1.0)
        for name in ("input_scale", "hidden_scale", "cell_scale", "cell_shift")
        if name not in present
    }
    if "rows" not in present:
        changes["rows"] = np.arange(len(direction.bias))
    time, batch, _ = call["X"].shape
    lengths = call["lengths"] if "lengths" in present else np.array([time])
    step = call["start_step"] if "start_step" in present else np.array([0])
    h, c = (
        np.broadcast_to(call[n], (batch, direction.hidden_size)) for n in ("initial_h", "initial_c")
    )
    lengths, step = (np.broadcast_to(np.minimum(v, 2**40), batch) for v in (lengths, step))
    return replace(direction, **changes).run(call["X"], h, c, lengths, step)


def all_nodes(nodes: Any) -> Iterator[onnx.NodeProto]:
    """Nodes, and those of the graphs inside them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from all_nodes(attribute.g.node)
