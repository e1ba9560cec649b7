"""bfloat16 graphs on a CPU, for which ONNX Runtime has no kernels: computed in float32, rounded.

Every value that a bfloat16 graph would hold is rounded to bfloat16, and each operator computes in
float32 on such values, as a GPU does that accumulates in float32. Casts to bfloat16 and back are
what a CPU has.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bnlstm_deploy.atomic import scratch
from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.runtime.providers import Provider

BFLOAT16, FLOAT = int(TensorProto.BFLOAT16), int(TensorProto.FLOAT)

MOVES = frozenset(
    "Cast Concat Expand Flatten Gather GatherND Identity Pad Reshape ReverseSequence Slice Split "
    "Squeeze Transpose Unsqueeze Where".split()
)
"""Operators whose results are values that were there before, rounded already."""


@contextlib.contextmanager
def runnable(path: Path, providers: Sequence[Provider]) -> Iterator[Path]:
    """Give the path of what the providers can run: the file, or its emulation for a while.

    Raises:
        RuntimeSessionError: A bfloat16 graph is to be checked on the CPU and elsewhere at once.
    """
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception:  # what is wrong with it is for the session to say
        yield path
        return
    dtype = {entry.key: entry.value for entry in proto.metadata_props}.get("bnlstm.dtype")
    names = {provider if isinstance(provider, str) else provider[0] for provider in providers}
    if dtype != "bfloat16" or "cpu" not in names:
        yield path
        return
    if len(names) > 1:
        raise RuntimeSessionError(
            f"the providers are {sorted(names)} for a bfloat16 graph, which is emulated on the "
            "cpu; check it on one provider at a time"
        )
    with scratch() as folder:
        copy = folder / path.name
        onnx.save(emulated(onnx.load(path)), copy)
        yield copy


def emulated(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a bfloat16 model that computes the same in float32 with roundings.

    Args:
        proto: A model that was exported with dtype bfloat16.
    """
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    inferred = onnx.shape_inference.infer_shapes(proto)
    values = (*inferred.graph.value_info, *inferred.graph.output)
    reduced = {v.name for v in values if v.type.tensor_type.elem_type == BFLOAT16}
    _rewrite(model.graph.node, reduced)
    for function in model.functions:
        if "bfloat16" in function.overload:  # of its own nodes, the products alone are reduced
            _rewrite(function.node, None)
    for entry in model.graph.initializer:
        if entry.data_type == BFLOAT16:
            wide = numpy_helper.to_array(entry).astype(np.float32)
            entry.CopyFrom(numpy_helper.from_array(wide, entry.name))
    del model.graph.value_info[:]
    return model


def _rewrite(nodes: Any, reduced: set[str] | None) -> None:  # noqa: ANN401 (protobuf's container)
    """Round results to bfloat16: those in `reduced`, or of matrix products if that is None."""
    rewritten: list[onnx.NodeProto] = []
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rewrite(attribute.g.node, reduced)
        rewritten.append(node)
        if node.op_type == "Cast" and node.attribute[0].i == BFLOAT16:
            node.attribute[0].i = FLOAT
            rewritten += _rounding(node)
        elif node.op_type not in MOVES and not node.domain:
            products = node.op_type == "MatMul"
            if products if reduced is None else node.output[0] in reduced:
                rewritten += _rounding(node)
    copies = [_copy(node) for node in rewritten]
    del nodes[:]
    nodes.extend(copies)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _rounding(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Put two casts between a node and its first result."""
    result = node.output[0]
    node.output[0] = f"{result}_unrounded"
    narrow = f"{result}_bfloat16"
    return [
        helper.make_node("Cast", [node.output[0]], [narrow], to=BFLOAT16),
        helper.make_node("Cast", [narrow], [result], to=FLOAT),
    ]
