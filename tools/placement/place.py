"""Which nodes of a graph have CUDA kernels in ONNX Runtime, found without running it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import onnx
from onnx import AttributeProto, ModelProto, NodeProto

from tools.placement import hosts
from tools.placement.prepare import OPERATOR, prepare
from tools.placement.rules import refusal
from tools.placement.scopes import Scope, node_name, scopes
from tools.placement.table import Kernel, Parameters, Table, cuda_table

CONTRIB_VERSION = 1
"""The version of all operators that the onnx package does not have."""

SHAPES = "may be on CPU: ONNX Runtime keeps shape arithmetic there"
CONTROL_FLOW = "CUDA graphs cannot hold control flow"
COPIED = "an input is copied between CPU and GPU"
FROZEN = "nodes on the CPU read {}, too, and ONNX Runtime makes a constant of it for CUDA"
"""Why the native kernel refuses a node; see cuda_op.cpp."""


class Status(Enum):
    """Where ONNX Runtime puts a node in a session with its CUDA provider."""

    CUDA = "CUDA"
    """The CUDA provider has a kernel for it."""
    CPU_SHAPES = "CPU, shapes"
    """ONNX Runtime keeps the node on the CPU on purpose, as arithmetic on shapes, whether there is
    a kernel or not."""
    MISSING = "no kernel"
    """It has none."""


@dataclass(frozen=True)
class Placement:
    """What is known of one node."""

    name: str
    """The node's, or that of its first output if it has none."""
    scope: str
    """Where it is: empty in the main graph, else as `scan/body`."""
    op: str
    domain: str
    """Empty for ai.onnx."""
    version: int | None
    """The operator's version that the model's opset means; None for operators nobody knows."""
    dtypes: Mapping[str, str]
    """The dtypes of its type parameters, joined by commas where values differ."""
    status: Status
    captures: bool
    """Whether a CUDA graph can hold it: ONNX Runtime refuses to capture control flow, and copies
    between CPU and GPU. A node without a kernel counts as one that cannot."""
    reason: str
    """Why it is not on CUDA, or cannot be captured; empty if it is and can."""


Types = dict[str, tuple[str, ...]]
"""The dtypes of the values of a node, by type parameter and by name of an input or output."""


@dataclass(frozen=True)
class _Verdict:
    version: int | None
    types: Types
    parameters: tuple[str, ...]
    """The type parameters among `types`."""
    reason: str


def place(
    model: ModelProto | str | Path, table: Table | None = None, *, native: bool = False
) -> tuple[Placement, ...]:
    """Say for each node whether ONNX Runtime has a CUDA kernel for its op, opset and dtypes.

    Nothing is run, and neither a GPU nor ONNX Runtime is needed. What is judged are the nodes of
    the main graph and of those inside Scan, Loop and If, with functions inlined. Left out are
    constants, and what ONNX Runtime computes from nothing else when it loads the file.

    Args:
        model: A model, or the path of its file; external data are not read.
        table: Which kernels there are; by default those of the CUDA provider.
        native: Whether this package's kernel is registered, too.

    Raises:
        RuntimeSessionError: There is no such file, or it is no valid ONNX model.
    """
    table = cuda_table() if table is None else table
    prepared = prepare(Path(model) if isinstance(model, str) else model, table, native=native)
    opsets = {_domain(entry.domain): entry.version for entry in prepared.opset_import}
    return tuple(p for scope in scopes(prepared, table.cpu) for p in _place(scope, opsets, table))


def _place(scope: Scope, opsets: Mapping[str, int], table: Table) -> Iterator[Placement]:
    verdicts = [_judge(node, scope, opsets, table) for node in scope.nodes]
    inputs = [frozenset(filter(None, node.input)) for node in scope.nodes]
    taken = {index for index, verdict in enumerate(verdicts) if not verdict.reason}
    runnable = {i for i, n in enumerate(scope.nodes) if (_domain(n.domain), n.op_type) in table.cpu}
    kept = hosts.shape_arithmetic(scope, taken, runnable)
    copies = hosts.copied(scope, taken - kept)
    on_host = {name for i in range(len(verdicts)) if i not in taken - kept for name in inputs[i]}
    for index, (node, verdict) in enumerate(zip(scope.nodes, verdicts, strict=True)):
        frozen = sorted(inputs[index] & on_host & scope.defaults) if _is_native(node) else []
        control_flow = any(a.type == AttributeProto.GRAPH for a in node.attribute)
        if frozen:
            status, reasons = Status.MISSING, [FROZEN.format(", ".join(frozen))]
        elif index in kept:
            status, reasons = Status.CPU_SHAPES, [SHAPES]
        elif verdict.reason:
            status, reasons = Status.MISSING, [verdict.reason]
        else:
            status, reasons = Status.CUDA, []
        if control_flow:
            reasons.append(CONTROL_FLOW)
        if index in copies and status is not Status.MISSING:
            reasons.append(COPIED)
        yield Placement(
            name=node_name(node),
            scope=scope.path,
            op=node.op_type,
            domain=_domain(node.domain),
            version=verdict.version,
            dtypes={
                name: ", ".join(filter(None, verdict.types[name])) for name in verdict.parameters
            },
            status=status,
            captures=not (status is Status.MISSING or control_flow or index in copies),
            reason="; ".join(reasons),
        )


def _judge(node: NodeProto, scope: Scope, opsets: Mapping[str, int], table: Table) -> _Verdict:
    """Look for the kernel of a node; a verdict without a reason is that there is one."""
    domain, op = _domain(node.domain), node.op_type
    if _is_native(node):
        dtype = scope.dtypes.get(node.input[0], "")
        return _Verdict(1, {"T": (dtype,)}, ("T",), "")
    if domain not in table.domains:
        known = (
            "ONNX Runtime knows no operators of that domain, nor has the model a usable function"
        )
        return _Verdict(None, {}, (), f"no CUDA kernel of {domain}::{op}: {known}")
    version: int | None
    if parameters := table.parameters.get((domain, op)):
        version = CONTRIB_VERSION
    else:
        try:
            schema = onnx.defs.get_schema(op, opsets.get(domain, 1), domain)
        except onnx.defs.SchemaError:
            where = f"{domain}::{op}" if domain else f"{op}, opset {opsets.get(domain, 1)}"
            return _Verdict(None, {}, (), f"no CUDA kernel of {where}: there is no such operator")
        version = schema.since_version
        parameters = Parameters(
            tuple((p.name, p.type_str) for p in schema.inputs),
            tuple((p.name, p.type_str) for p in schema.outputs),
        )
    types, names = _types(node, parameters, scope)
    kernels = table.kernels.get((domain, op), ())
    return _Verdict(version, types, names, _missing(op, version, types, kernels) or refusal(node))


def _missing(op: str, version: int, types: Types, kernels: tuple[Kernel, ...]) -> str:
    """Say why none of an operator's kernels is for a node, or '' if one is."""
    if not kernels:
        return f"no CUDA kernel of {op}"
    candidates = [kernel for kernel in kernels if kernel.runs(version)]
    if not candidates:
        have = ", ".join(kernel.versions for kernel in reversed(kernels))
        return f"no CUDA kernel of {op} for version {version} of the operator; it has {have}"
    mismatches = [_mismatch(op, types, kernel) for kernel in candidates]
    return "" if "" in mismatches else mismatches[0]


def _mismatch(op: str, types: Types, kernel: Kernel) -> str:
    for name, known in kernel.constraints.items():
        dtypes = types.get(name, ())  # left out if optional
        if dtypes == ("",):
            return f"no CUDA kernel of {op} can be chosen: its {name} has no dtype"
        for dtype in filter(None, dtypes):  # one value that has a dtype speaks for the others
            if dtype not in known:
                return f"no CUDA kernel of {op} for {dtype}; it has {', '.join(sorted(known))}"
    return ""


def _types(node: NodeProto, parameters: Parameters, scope: Scope) -> tuple[Types, tuple[str, ...]]:
    """Return the dtypes of a node's values, and which names among them are type parameters."""
    types: dict[str, dict[str, None]] = {}
    names: dict[str, None] = {}
    for values, formal in (
        (node.input, parameters.inputs),
        (node.output, parameters.outputs),
    ):
        for index, value in enumerate(values):
            if not value or not formal:
                continue
            name, type = formal[min(index, len(formal) - 1)]  # the last may be variadic
            dtype = scope.dtypes.get(value, "")
            types.setdefault(name, {})[dtype] = None
            if type.isidentifier():  # else it is a fixed type, such as tensor(int64)
                names[type] = None
                types.setdefault(type, {})[dtype] = None
    return {name: tuple(dtypes) for name, dtypes in types.items()}, tuple(names)


def _is_native(node: NodeProto) -> bool:
    return (node.domain, node.op_type) == OPERATOR


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name
