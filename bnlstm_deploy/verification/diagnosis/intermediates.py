"""A debug copy of an exported graph, in which its own intermediate values are outputs.

The values are found by the names that `exporting.forms` gives them. Inside a Scan they become scan
outputs, inside an If outputs of both branches, and in an unrolled body they are there. Nothing else
changes: the copy computes what the file computes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper

from bnlstm_deploy.dtypes import BY_ONNXRUNTIME
from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.exporting.forms import unrolled
from bnlstm_deploy.exporting.op import OUTPUTS
from bnlstm_deploy.runtime.opening import CRASHES, ERROR_SEVERITY
from bnlstm_deploy.runtime.providers import Provider, resolve
from bnlstm_deploy.signature import Array
from bnlstm_deploy.verification.diagnosis.places import Place, inputs_of

INPUT_PRODUCT, HIDDEN_PRODUCT, GATES = "input product", "hidden product", "gates"
CELL, AFFINE, OUTPUT = "cell", "affine", "output"

IN_SCAN = {
    INPUT_PRODUCT: ("gates_x",),
    HIDDEN_PRODUCT: ("h_scaled",),
    GATES: ("gates",),
    CELL: ("c_t", "c_new"),  # with a mask, c_new is what is held
    AFFINE: ("cell",),
    OUTPUT: ("h_wide", "h_new"),
}
"""Names of the intermediates in a function body with a Scan, the first one that is there."""

UNROLLED = {
    INPUT_PRODUCT: ("gates_x_{t}",),
    HIDDEN_PRODUCT: ("h_scaled_{t}",),
    GATES: ("gates_{t}",),
    CELL: ("half_c_{next}",),
    AFFINE: ("cell_{t}",),
    OUTPUT: ("h_wide_{next}", "h_{next}"),
}
"""Names of the intermediates of timestep t in an unrolled body, the first one that is there.

It holds half the cell state, and twice the part of the gate g; see `forms.unrolled`."""

DYNAMIC = ("X", "initial_h", "initial_c", "lengths", "start_step")
"""Inputs of a node that depend on what the graph is fed."""

TAG = "bnlstm_debug"


@dataclass(frozen=True)
class NodeValues:
    """What the graph itself held at one node, in its dtype."""

    inputs: Mapping[str, Array]
    """Of the node, those in DYNAMIC that are not left empty."""
    y: Array
    """(T, N, H)."""
    y_h: Array
    """(N, H)."""
    y_c: Array
    """(N, H)."""
    inner: Mapping[str, Array]
    """Intermediates that were asked for and are there, (T, N, .)."""


class DebugGraph:
    """A debug copy, loaded.

    Args:
        proto: The file; it is copied.
        nodes: The nodes to look into.
        wanted: Intermediates of all of these nodes, keys of IN_SCAN. What is held in memory is
            (T, N, .) for each node and intermediate: ask for few at a time.
        providers: Execution providers, as of a `Session`.

    Raises:
        RuntimeSessionError: ONNX Runtime cannot load the copy.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        nodes: Mapping[Place, onnx.NodeProto],
        wanted: Sequence[str],
        providers: Sequence[Provider] = ("cpu",),
    ) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(proto)
        self.outputs = [value.name for value in proto.graph.output]
        self.names: dict[Place, dict[str, list[str]]] = {}
        self.doubled: set[Place] = set()
        copies = {node.output[0]: node for node in self.model.graph.node}
        for number, (place, node) in enumerate(nodes.items()):
            copy = copies[node.output[0]]
            if copy.overload.startswith(unrolled.FORM):
                self.doubled.add(place)
            self.names[place] = self._expose(copy, f"{TAG}_{number}", wanted)
        options = ort.SessionOptions()
        options.log_severity_level = ERROR_SEVERITY
        try:
            self._session = ort.InferenceSession(
                self.model.SerializeToString(),
                options,
                providers=resolve(providers),
                disabled_optimizers=CRASHES,
            )
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise RuntimeSessionError(
                f"ONNX Runtime cannot load the debug copy of the file: {str(error).strip()}"
            ) from error
        given = (*self._session.get_inputs(), *self._session.get_overridable_initializers())
        self._dtypes = {value.name: BY_ONNXRUNTIME.get(value.type) for value in given}

    def run(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], dict[Place, NodeValues]]:
        """Run the copy: the outputs of the graph, and what it held at each node.

        Raises:
            RuntimeSessionError: ONNX Runtime fails on it.
        """
        cast = {
            name: array.astype(self._dtypes[name] or array.dtype) for name, array in feeds.items()
        }
        names = [value.name for value in self._session.get_outputs()]
        try:
            values = dict(zip(names, self._session.run(names, cast), strict=True))
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise RuntimeSessionError(
                f"ONNX Runtime failed on the debug copy: {str(error).strip()}"
            ) from error
        own = {
            place: _own(values, found, doubled=place in self.doubled)
            for place, found in self.names.items()
        }
        return {name: values[name] for name in self.outputs}, own

    def _expose(
        self, node: onnx.NodeProto, tag: str, wanted: Sequence[str]
    ) -> dict[str, list[str]]:
        """Make values of a node outputs of the graph; return the outputs by what they hold."""
        function = self._own_function(node, tag)
        found: dict[str, list[str]] = {}
        for number, kind in enumerate(wanted):
            values = _unrolled(function, kind) or _inside(
                function, kind, f"{tag}_{number}", self._blank()
            )
            names = [f"{tag}_{number}_{t}" for t in range(len(values))]
            for value, name in zip(values, names, strict=True):
                function.node.append(helper.make_node("Identity", [value], [name]))
            function.output.extend(names)
            node.output.extend(names)
            if names:
                found[kind] = names
        values_of = {n: v for n, v in inputs_of(node).items() if n in DYNAMIC}
        values_of |= dict(zip(OUTPUTS, node.output, strict=False))
        for name, value in values_of.items():
            self.model.graph.node.append(helper.make_node("Identity", [value], [f"{tag}_{name}"]))
            found[name] = [f"{tag}_{name}"]
        for name in (name for names in found.values() for name in names):
            integer = name.endswith(("lengths", "start_step"))
            narrow = name in (f"{tag}_X", f"{tag}_Y")
            element = onnx.TensorProto.INT64 if integer else self._element(narrow=narrow)
            self.model.graph.output.append(helper.make_tensor_value_info(name, element, None))
        return found

    def _own_function(self, node: onnx.NodeProto, tag: str) -> onnx.FunctionProto:
        """Give the node a function of its own, a copy."""
        for function in self.model.functions:
            key = (function.domain, function.name, function.overload)
            if key == (node.domain, node.op_type, node.overload):
                copy: onnx.FunctionProto = self.model.functions.add()
                copy.CopyFrom(function)
                copy.overload = node.overload = tag
                return copy
        raise RuntimeSessionError(
            f"the node {node.domain}::{node.op_type} has no function {node.overload!r} in the "
            "file; export it again"
        )

    def _element(self, *, narrow: bool = False) -> int:
        """The type of states and scales, or of X, Y and the weights."""
        types = {entry.name: entry.data_type for entry in self.model.graph.initializer}
        node = next(n for n in self.model.graph.node if n.overload.startswith(TAG))
        element: int = types[inputs_of(node)["weight_hh" if narrow else "bias"]]
        return element

    def _blank(self) -> onnx.TensorProto:
        return helper.make_tensor("value", self._element(), [0], [])


def _own(
    values: Mapping[str, Array], found: Mapping[str, list[str]], *, doubled: bool
) -> NodeValues:
    inner: dict[str, Array] = {}
    for kind in IN_SCAN.keys() & found.keys():
        arrays = [values[name] for name in found[kind]]
        array = arrays[0] if len(arrays) == 1 and arrays[0].ndim != 2 else np.stack(arrays)
        if array.size:  # else it is in the branch that was not taken
            inner[kind] = _undoubled(kind, array.astype(np.float64)) if doubled else array
    y, y_h, y_c = (values[found[name][0]] for name in OUTPUTS)
    inputs = {name: values[found[name][0]] for name in DYNAMIC if name in found}
    return NodeValues(inputs, y, y_h, y_c, inner)


def _undoubled(kind: str, values: NDArray[np.floating]) -> Array:
    if kind == CELL:
        return values * 2
    if kind in (INPUT_PRODUCT, HIDDEN_PRODUCT, GATES):
        i, f, g, o = np.split(values, 4, axis=-1)
        return np.concatenate([i, f, g / 2, o], axis=-1)
    return values


def _unrolled(function: onnx.FunctionProto, kind: str) -> list[str]:
    """Return the names of an intermediate at each timestep; none if the body is not unrolled."""
    there = {name for node in function.node for name in node.output}
    # a tree of Splits has leaves past the last timestep
    time = sum(name.startswith("squashed_") for name in there)
    for pattern in UNROLLED[kind]:
        names = [pattern.format(t=t, next=t + 1) for t in range(time)]
        if there.issuperset(names):
            return names
    return []


def _inside(
    function: onnx.FunctionProto, kind: str, tag: str, blank: onnx.TensorProto
) -> list[str]:
    name = _carry_out(function.node, IN_SCAN[kind], tag, blank)
    return [] if name is None else [name]


def _carry_out(
    nodes: Iterable[onnx.NodeProto], names: Sequence[str], tag: str, blank: onnx.TensorProto
) -> str | None:
    """Return the name by which a value is visible among `nodes`, carried out of inner graphs.

    Args:
        nodes: Of a function or a graph; changed in place.
        names: What the value may be called.
        tag: A prefix for new names.
        blank: What stands for it in a branch that does not have it.

    Returns:
        The name, or None if no node computes it.
    """
    nodes = list(nodes)
    there = {output for node in nodes for output in node.output}
    for name in names:
        if name in there:
            return name
    for node in nodes:
        graphs = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        inner = [_carry_out(g.node, names, f"{tag}_{n}", blank) for n, g in enumerate(graphs)]
        if not any(inner):
            continue
        for number, (graph, value) in enumerate(zip(graphs, inner, strict=True)):
            result = f"{tag}_{number}_out"
            if value is None:
                constant = helper.make_node("Constant", [], [result], value=blank)
                graph.node.append(constant)
            else:
                graph.node.append(helper.make_node("Identity", [value], [result]))
            graph.output.append(onnx.ValueInfoProto(name=result))
        node.output.append(f"{tag}_all")
        return f"{tag}_all"
    return None
