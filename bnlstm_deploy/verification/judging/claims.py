"""What a file's metadata say of it, against what it is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import onnx
import torch
from torch import Tensor, nn

from bnlstm_deploy.dtypes import ELEMENT_TYPES
from bnlstm_deploy.errors import VerificationError
from bnlstm_deploy.exporting.export import fold_layers
from bnlstm_deploy.exporting.forms import FACTORED, MATERIALIZED, parts
from bnlstm_deploy.exporting.lifted import Lifted
from bnlstm_deploy.exporting.op import DOMAIN, NAME
from bnlstm_deploy.exporting.padding import find_time_axes
from bnlstm_deploy.exporting.values import GraphInput
from bnlstm_deploy.folding.approximate import INT8
from bnlstm_deploy.metadata import Metadata
from bnlstm_deploy.signature import TIME
from bnlstm_deploy.verification.diagnosis.places import Place, find_arrays, find_nodes, inputs_of
from bnlstm_deploy.verification.measuring.process import Graph

FORMS = {(True, True): "lstm-or-scan", (True, False): "lstm", (False, True): "scan"}
"""The form of a body, by whether it has an LSTM operator and a Scan; else it is unrolled."""


def check_claims(
    model: nn.Module, proto: onnx.ModelProto, graph: Graph, examples: Sequence[Tensor]
) -> tuple[Metadata, list[str]]:
    """Compare a file's metadata with its nodes and arrays, and with the model.

    Budgets and cases follow from the metadata, so a file must not choose its own.

    Args:
        model: The training model.
        proto: The file.
        graph: The same file in a runtime.
        examples: Arguments of the model, with a time of at least 2.

    Returns:
        The metadata as they ought to be where a check depends on them, and what is wrong.
    """
    metadata = graph.metadata
    problems = list(_steps(proto, metadata))
    dtypes = _dtypes(model, proto)
    casts = any(name.endswith(parts.STORED) for f in proto.functions for name in f.input)
    if metadata.inlined:
        initializers = {entry.name for entry in proto.graph.initializer}
        casts = any(n.op_type == "Cast" and n.input[0] in initializers for n in proto.graph.node)
    stored = dtypes[0] if casts and dtypes else None
    if dtypes != [metadata.weights or metadata.dtype] or stored != metadata.weights:
        words = " and ".join(dtypes) or "of no dtype that a graph has"
        claimed = f" with weights in {metadata.weights}" if metadata.weights else ""
        cast = ", and cast to float32" if casts else ""
        problems.append(f"dtype is {metadata.dtype}{claimed}, the weights are {words}{cast}")
        dtype = "float32" if casts or not dtypes else dtypes[0]
        metadata = replace(metadata, dtype=dtype, weights=stored)
    rounds = {node.op_type for node in _all_nodes(_with_bodies(proto))} >= {"Round", "Clip"}
    if (metadata.activations is not None) != rounds:
        problems.append(
            f"activations is {metadata.activations}, and {'a' if rounds else 'no'} body rounds h"
        )
        metadata = replace(metadata, activations=INT8 if rounds else None)
    try:
        nodes = {} if metadata.inlined else find_nodes(model, proto)
    except VerificationError:
        return metadata, problems  # of another model: that is found elsewhere
    bodies = {(f.domain, f.name, f.overload): f for f in proto.functions}
    found = {
        place: _form(bodies[key])
        for place, node in nodes.items()
        if (key := (node.domain, node.op_type, node.overload)) in bodies
    }
    for number, name in enumerate(("form", "folding")):
        actual = "+".join(sorted({both[number] for both in found.values()}))
        if found and actual != getattr(metadata, name):
            problems.append(f"{name} is {getattr(metadata, name)}, the nodes' bodies are {actual}")
    streams = list(_streams(metadata, found))
    for entry, one in zip(metadata.layers, streams, strict=True):
        if entry.streams != one:
            of = f" of {entry.name}" if entry.name else ""
            problems.append(f"streams{of} is {entry.streams}, and ought to be {one}")
    layers = tuple(replace(e, streams=one) for e, one in zip(metadata.layers, streams, strict=True))
    right = replace(metadata, layers=layers)
    if not problems:  # else the model cannot be run as the file says
        problems += _time(model, proto, graph, examples)
    return right, problems


def _steps(proto: onnx.ModelProto, metadata: Metadata) -> Iterator[str]:
    steps = {entry.key: entry.value for entry in proto.metadata_props}.get("bnlstm.steps")
    if steps not in (None, str(metadata.steps)):
        yield f"steps is {steps}, the layers have {metadata.steps}"


def _dtypes(model: nn.Module, proto: onnx.ModelProto) -> list[str]:
    """Return the dtypes of the layers' weights, the most exact first."""
    try:
        arrays = find_arrays(model, proto)
    except VerificationError:
        nodes = [node for node in proto.graph.node if (node.domain, node.op_type) == (DOMAIN, NAME)]
        return _types_of(proto, [inputs_of(node) for node in nodes])
    return _types_of(proto, arrays.values())


def _types_of(proto: onnx.ModelProto, arrays: Iterable[Mapping[str, str]]) -> list[str]:
    weights = {named.get(name) for named in arrays for name in ("weight_ih", "weight_hh")}
    types = {entry.data_type for entry in proto.graph.initializer if entry.name in weights}
    known = {**ELEMENT_TYPES, "int8": onnx.TensorProto.INT8}
    return [name for name, number in known.items() if number in types]


def _form(body: onnx.FunctionProto) -> tuple[str, str]:
    """Return the form and the folding that a node's function has."""
    kinds = {node.op_type for node in _all_nodes(body.node)}
    folding = MATERIALIZED if MATERIALIZED in body.overload else FACTORED
    return FORMS.get(("LSTM" in kinds, "Scan" in kinds), "unrolled"), folding


def _all_nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _all_nodes(attribute.g.node)


def _with_bodies(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes of the bodies of layers, or of all the file where they are inlined."""
    bodies = [f for f in proto.functions if (f.domain, f.name) == (DOMAIN, NAME)]
    return [node for f in bodies for node in f.node] or list(proto.graph.node)


def _streams(metadata: Metadata, found: dict[Place, tuple[str, str]]) -> Iterator[bool]:
    """Yield whether each of the layers can be continued in chunks."""
    for entry in metadata.layers:
        foldings = {both[1] for place, both in found.items() if entry.name in ("", place.path)}
        if metadata.inlined:  # no body tells
            foldings = {*metadata.folding.split("+")}
        yield entry.num_directions == 1 and MATERIALIZED not in foldings


def _time(
    model: nn.Module, proto: onnx.ModelProto, graph: Graph, examples: Sequence[Tensor]
) -> Iterator[str]:
    """Compare the time axes, and whether the graph may be given padded sequences."""
    metadata = graph.metadata
    if all(entry.key != "bnlstm.time_axes" for entry in proto.metadata_props):
        return  # an older file, which does not say
    claimed = dict(metadata.time_axes)
    inputs = []
    for value, example in zip(graph.inputs, examples, strict=True):
        axis = claimed.pop(value.name, None)
        sizes = (TIME,) if metadata.length is None else (metadata.length,)
        known = value.shape.index(TIME) if TIME in value.shape else axis
        if axis != known or (axis is not None and value.shape[axis : axis + 1] != sizes):
            yield f"time_axes say {axis} of {value.name}, whose shape is {value.shape}"
            return
        wide = example.double() if example.is_floating_point() else example
        inputs.append(GraphInput(value.name, wide, {} if axis is None else {axis: TIME}))
    if not metadata.pads:
        return  # whoever runs it leaves padding alone
    lifted = Lifted(fold_layers(model, torch.float64), metadata.layers)
    with torch.no_grad():
        lifted([value.example for value in inputs], {})
    found = find_time_axes(lifted, inputs)
    if found is None:
        yield "pads is true, and padding changes the model's outputs"
        return
    right = {graph.outputs[number].name: axis for number, axis in found.items()}
    if claimed != right:
        yield f"time_axes of the outputs are {claimed}, and ought to be {right}"
