"""A model as ONNX Runtime takes it apart: the main graph and the graphs inside its nodes."""

import math
from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
)

DTYPES = {"float": "float32", "double": "float64"}
"""ONNX's names of types that numpy calls otherwise."""

REDUCED = {"float16", "bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"}
REDUCED |= {"float4e2m1"}
"""Dtypes that the CPU provider has few kernels for."""

NOT_FOLDED = {"QuantizeLinear", "DequantizeLinear", "Bernoulli", "Multinomial"}
NOT_FOLDED |= {f"Random{kind}" for kind in ("Normal", "Uniform", "NormalLike", "UniformLike")}
"""Operators that ONNX Runtime does not compute when it loads a file."""


@dataclass(frozen=True)
class Scope:
    """The main graph, or a graph inside a node."""

    path: str
    """The nodes around it and the attributes that hold it: `scan/body`; empty for the main graph.
    """
    nodes: tuple[NodeProto, ...]
    """In the order in which they run. Without Constant, and without what depends on nothing but
    constants and fixed shapes: ONNX Runtime computes it when it loads the file."""
    inputs: frozenset[str]
    """Inputs of this graph that have no default."""
    defaults: frozenset[str]
    """Those that have one."""
    dtypes: Mapping[str, str]
    """The dtypes of its values and of those around it, as far as they can be inferred."""
    sizes: Mapping[str, int]
    """The numbers of elements of its constants and initializers and of those around it."""


def scopes(model: ModelProto, cpu: Collection[tuple[str, str]]) -> Iterator[Scope]:
    """Yield the main graph, then those inside its nodes, from the outside to the inside.

    Args:
        model: Its dtypes and shapes are inferred.
        cpu: Domains and operators of which the CPU provider has kernels; others are not folded.
    """
    yield from _scopes(model.graph, "", ChainMap(), ChainMap(), frozenset(), cpu)


def _scopes(
    graph: GraphProto,
    path: str,
    dtypes: ChainMap[str, str],
    sizes: ChainMap[str, int],
    constants: frozenset[str],
    cpu: Collection[tuple[str, str]],
) -> Iterator[Scope]:
    values = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
    given = {value.name for value in graph.input}
    dtypes, sizes = dtypes.new_child(), sizes.new_child()
    dtypes.update({name: dtype_of(value.type) for name, value in values.items()})
    for entry in graph.initializer:
        dtypes[entry.name] = element_name(entry.data_type)
        sizes[entry.name] = math.prod(entry.dims)
    # An initializer that is also an input is a default: callers may give another value.
    constants = constants - given | {e.name for e in graph.initializer if e.name not in given}
    nodes = []
    for node in graph.node:
        if _is_folded(node, values, dtypes, constants, cpu):
            constants |= set(node.output)
            shapes = {name: _shape(values[name]) for name in node.output if name in values}
            sizes.update({n: math.prod(s) for n, s in shapes.items() if s is not None})
        else:
            nodes.append(node)
    defaults = frozenset(given & {entry.name for entry in graph.initializer})
    yield Scope(path, tuple(nodes), frozenset(given) - defaults, defaults, dtypes, sizes)
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                inner = "/".join(filter(None, (path, node_name(node), attribute.name)))
                yield from _scopes(attribute.g, inner, dtypes, sizes, constants, cpu)


def _is_folded(
    node: NodeProto,
    values: Mapping[str, ValueInfoProto],
    dtypes: Mapping[str, str],
    constants: frozenset[str],
    cpu: Collection[tuple[str, str]],
) -> bool:
    """Whether ONNX Runtime computes a node when it loads the file."""
    # onnxruntime/core/optimizer/constant_folding.cc
    kind = ("" if node.domain == "ai.onnx" else node.domain, node.op_type)
    if kind == ("", "Constant"):
        return True
    if kind == ("", "Shape") and node.input[0] in values:
        return _shape(values[node.input[0]]) is not None
    return (
        kind in cpu
        and node.op_type not in NOT_FOLDED
        and all(name in constants for name in node.input if name)
        and all(dtypes.get(name) not in REDUCED for name in (*node.input, *node.output))
        and all(attribute.type != AttributeProto.GRAPH for attribute in node.attribute)
    )


def _shape(value: ValueInfoProto) -> tuple[int, ...] | None:
    """Return the shape of a value, if it is fixed."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    return tuple(d.dim_value for d in tensor.shape.dim)


def node_name(node: NodeProto) -> str:
    """Return the name of a node, or of what it computes if it has none."""
    return node.name or next(filter(None, node.output), node.op_type)


def dtype_of(type: TypeProto) -> str:
    """Return the dtype of a value, of a sequence as `seq(float32)`; empty if it has none."""
    kind = type.WhichOneof("value")
    if kind == "tensor_type":
        return element_name(type.tensor_type.elem_type)
    if kind in ("sequence_type", "optional_type"):
        inner = dtype_of(getattr(type, kind).elem_type)
        return inner and f"{'seq' if kind == 'sequence_type' else 'optional'}({inner})"
    return ""


def element_name(number: int) -> str:
    """Return the dtype of ONNX's number of it; empty for 0 and for numbers that onnx lacks."""
    if number == TensorProto.UNDEFINED or number not in TensorProto.DataType.values():
        return ""
    name = str(TensorProto.DataType.Name(number)).lower()
    return DTYPES.get(name, name)


def onnx_name(dtype: str) -> str:
    """Return ONNX's name of a tensor's dtype; empty for sequences and unknown ones."""
    names = {ours: theirs for theirs, ours in DTYPES.items()}
    name = names.get(dtype, dtype).upper()
    return name if name in list(TensorProto.DataType.keys()) else ""
