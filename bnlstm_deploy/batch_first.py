"""A copy of an exported file in which the batch is the first axis of every input and output."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx_ir as ir

from bnlstm_deploy.atomic import replacing
from bnlstm_deploy.errors import ExportError
from bnlstm_deploy.seal import serialize
from bnlstm_deploy.signature import BATCH


class Port(NamedTuple):
    """An input or output of a graph, and what it becomes in the copy."""

    name: str
    new_name: str
    axis: int
    """The batch axis in the graph. In the copy it is 0; a value of one axis, (N,), gets (N, 1)."""


def batch_first(
    source: Path, destination: Path, inputs: Sequence[Port], outputs: Sequence[Port]
) -> None:
    """Write the copy, checked by `onnx.checker`. Its recurrence is that of the source.

    Args:
        source: The exported file.
        destination: The file to write; replaced if it exists.
        inputs: The copy's inputs, none of them optional. The source's other inputs become
            constants, with the values that they have when left out.
        outputs: The copy's outputs, some of the source's.

    Raises:
        ExportError: A name is not one of the graph's, an input is left out that has no value of
            its own, or the copy is not valid ONNX.
    """
    model = ir.load(source)
    graph = model.graph
    own_inputs, own_outputs = _by_name(graph.inputs), _by_name(graph.outputs)
    chosen = {port.name for port in inputs}
    unknown = (chosen - own_inputs.keys()) | ({port.name for port in outputs} - own_outputs.keys())
    left_out = own_inputs.keys() - chosen - graph.initializers.keys()
    if unknown or left_out:
        raise ExportError(
            f"{source} has no {sorted(unknown)}, and cannot do without {sorted(left_out)}; its "
            f"inputs are {list(own_inputs)}, its outputs {list(own_outputs)}"
        )
    graph.inputs.clear()
    graph.outputs.clear()
    for port in inputs:
        graph.initializers.pop(port.name, None)
        graph.inputs.append(_take_in(graph, own_inputs[port.name], port))
    for port in outputs:
        graph.outputs.append(_give_out(graph, own_outputs[port.name], port))
    graph.sort()
    proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the batch-first copy of {source} is not valid ONNX: {error}") from error
    with replacing(destination) as temporary:
        temporary.write_bytes(serialize(proto))


def _take_in(graph: ir.Graph, value: ir.Value, port: Port) -> ir.Value:
    """Return a new input whose batch is first, and compute `value` from it."""
    new = ir.Value(name=port.new_name, shape=_shape(value, port.axis), type=value.type)
    axes = list(range(1, _rank(value)))
    axes.insert(port.axis, 0)  # the inverse of what an output's are
    moved = _add(graph, "Squeeze", new, axes)
    moved.name, moved.shape, moved.type = f"{port.name}/graph", value.shape, value.type
    value.replace_all_uses_with(moved)
    return new


def _give_out(graph: ir.Graph, value: ir.Value, port: Port) -> ir.Value:
    """Return a new output whose batch is first, computed from `value`."""
    value.name = f"{port.name}/graph"
    axes = [port.axis, *(axis for axis in range(_rank(value)) if axis != port.axis)]
    new = _add(graph, "Unsqueeze", value, axes)
    new.name, new.shape, new.type = port.new_name, _shape(value, port.axis), value.type
    return new


def _add(graph: ir.Graph, for_one_axis: str, value: ir.Value, axes: list[int]) -> ir.Value:
    """Append a node that puts axes in another order, or gives or takes (N,) its second one."""
    if len(axes) == 1:
        second = ir.node("Constant", [], {"value_ints": [1]})
        graph.append(second)
        node = ir.node(for_one_axis, [value, second.outputs[0]])
    elif axes == sorted(axes):
        node = ir.node("Identity", [value])
    else:
        node = ir.node("Transpose", [value], {"perm": axes})
    graph.append(node)
    return node.outputs[0]


def _shape(value: ir.Value, axis: int) -> ir.Shape:
    assert value.shape is not None
    others = [size for i, size in enumerate(value.shape) if i != axis]
    return ir.Shape([BATCH, *(others or [1])])


def _rank(value: ir.Value) -> int:
    assert value.shape is not None
    return len(value.shape)


def _by_name(values: Sequence[ir.Value]) -> dict[str, ir.Value]:
    return {str(value.name): value for value in values}
