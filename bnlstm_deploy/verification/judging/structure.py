"""Whether a file is what it says it is: names, shapes, types, opset, and the checkpoint's hash."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from bnlstm_deploy.checkpoint import state_sha256
from bnlstm_deploy.dtypes import ELEMENT_TYPES, REDUCED
from bnlstm_deploy.errors import VerificationError
from bnlstm_deploy.exporting.export import OPSETS
from bnlstm_deploy.exporting.lifted import Lifted
from bnlstm_deploy.exporting.op import DOMAIN, NAME
from bnlstm_deploy.metadata import CARRIED, PRODUCER, Metadata
from bnlstm_deploy.verification.diagnosis.arrays import compare_arrays
from bnlstm_deploy.verification.diagnosis.places import find_arrays
from bnlstm_deploy.verification.judging.claims import check_claims
from bnlstm_deploy.verification.measuring.process import Graph

SHOWN = 3
"""Arrays that are named of those that differ."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and how it was found."""

    name: str
    ok: bool
    detail: str


def check_structure(
    model: nn.Module, path: Path, graph: Graph, examples: Sequence[Tensor]
) -> tuple[Metadata, list[Finding]]:
    """Look at the file without running it.

    Args:
        model: The training model.
        path: The ONNX file.
        graph: The same file in a runtime, of the same layers.
        examples: Arguments of the model, with a time of at least 2.

    Returns:
        The file's metadata, corrected where they claim what the file is not; and what was found.
    """
    proto = onnx.load(path)
    metadata, wrong = check_claims(model, proto, graph, examples)
    return metadata, [
        _validity(path),
        _opset(proto),
        Finding("metadata", not wrong, "; ".join(wrong) or "what the nodes and arrays are"),
        _values(model, graph, metadata, examples),
        _types(proto, metadata),
        _nodes(proto, graph),
        _hash(model, graph),
        *_arrays(model, proto, metadata),
    ]


def _validity(path: Path) -> Finding:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return Finding("valid ONNX", False, str(error).strip().partition("\n")[0])
    return Finding("valid ONNX", True, "onnx.checker finds no fault")


def _opset(proto: onnx.ModelProto) -> Finding:
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    opset = versions.get("", 0)
    known = f"{OPSETS.start} to {OPSETS.stop - 1}"
    return Finding("opset", opset in OPSETS, f"{opset}; supported are {known}")


def _values(
    model: nn.Module, graph: Graph, metadata: Metadata, examples: Sequence[Tensor]
) -> Finding:
    """Names and shapes of the inputs and outputs for states."""
    inputs = {value.name: value.shape for value in graph.state_inputs}
    outputs = {value.name: value.shape for value in graph.state_outputs}
    lifted = Lifted(copy.deepcopy(model).eval().to("cpu", torch.float64), metadata.layers)
    with torch.inference_mode():
        lifted([x.double() if x.is_floating_point() else x for x in examples], {})
    problems = [f"the input {name} is missing" for name in lifted.accepts if name not in inputs]
    problems += [
        f"the output {name} is missing"
        for entry in metadata.layers
        for name in map(entry.value_name, ("h_n", "c_n"))
        if name not in outputs
    ]
    for entry in metadata.layers:
        rows = entry.num_layers * entry.num_directions
        for into, out in CARRIED.items():
            name, end = entry.value_name(into), entry.value_name(out)
            if name not in inputs:
                continue  # the model passes that itself, or the graph cannot continue a stream
            if end not in outputs:
                problems += [f"the output {end} is missing"] if into == "start_step" else []
            elif into != "start_step" and (inputs[name][0], inputs[name][-1]) != (
                rows,
                entry.hidden_size,
            ):
                problems.append(f"{name} has shape {inputs[name]}")
    detail = "; ".join(problems) or f"{len(inputs)} optional inputs, {len(outputs)} state outputs"
    return Finding("names and shapes", not problems, detail)


def _types(proto: onnx.ModelProto, metadata: Metadata) -> Finding:
    dtype, weights = metadata.dtype, metadata.weights
    words = f"{dtype} throughout" if dtype not in REDUCED else f"{dtype} and float32"
    words += f", weights in {weights}" if weights else ""
    known = {ELEMENT_TYPES.get(dtype), ELEMENT_TYPES["float32"] if dtype in REDUCED else None}
    known |= {ELEMENT_TYPES.get(weights or dtype)}
    other = [
        entry.name
        for entry in proto.graph.initializer
        if entry.data_type in ELEMENT_TYPES.values() and entry.data_type not in known
    ]
    detail = words if not other else f"not {words}: {', '.join(other[:8])}"
    return Finding("types", not other, detail)


def _nodes(proto: onnx.ModelProto, graph: Graph) -> Finding:
    """One node a layer and direction, each with its function."""
    nodes = [node for node in proto.graph.node if (node.domain, node.op_type) == (DOMAIN, NAME)]
    layers = graph.metadata.layers
    expected = sum(entry.num_layers * entry.num_directions for entry in layers)
    functions = {(f.domain, f.name, f.overload) for f in proto.functions}
    bare = [node for node in nodes if (node.domain, node.op_type, node.overload) not in functions]
    if graph.metadata.inlined:
        return Finding("nodes", not nodes, f"inlined, {len(nodes)} nodes {DOMAIN}::{NAME} are left")
    ok = len(nodes) == expected and not bare
    detail = f"{len(nodes)} nodes {DOMAIN}::{NAME} for {expected} layers and directions"
    return Finding("nodes", ok, detail + (f", {len(bare)} without a function" if bare else ""))


def _hash(model: nn.Module, graph: Graph) -> Finding:
    recorded = graph.metadata.checkpoint_sha256
    # the same values in another dtype are no other weights
    ok = recorded in {state_sha256(model, dtype) for dtype in (None, torch.float32, torch.float64)}
    detail = f"{recorded[:16]}..., the checkpoint's"
    if not ok:
        detail = (
            f"the file was exported from other weights ({recorded[:16]}...) than this checkpoint "
            f"holds ({state_sha256(model)[:16]}...): a stale export, or another checkpoint"
        )
    return Finding("checkpoint hash", ok, detail)


def _arrays(model: nn.Module, proto: onnx.ModelProto, metadata: Metadata) -> Iterator[Finding]:
    """Look at each array, however small its effect; another version may lay out others."""
    if metadata.producer != PRODUCER:
        return
    try:
        arrays = find_arrays(model, proto)
    except VerificationError as error:
        yield Finding("arrays", False, str(error))
        return
    differences, _ = compare_arrays(model, proto, metadata, arrays)
    detail = "those of the model's fold, rounded once"
    if differences:
        more = len(differences) - SHOWN
        detail = "; ".join(map(str, differences[:SHOWN])) + f"; and {more} more" * (more > 0)
    yield Finding("arrays", not differences, detail)
