"""Where the layers and directions of a model are in an exported graph."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from torch import nn

from bnlstm_deploy.errors import VerificationError
from bnlstm_deploy.exporting.op import DOMAIN, NAME, Inputs
from bnlstm_deploy.folding.folded import FLOATS
from bnlstm_deploy.metadata import INLINED
from bnlstm_deploy.nn import BNLSTM

ARRAYS = (*FLOATS, "rows")
"""The operator's inputs that are arrays of the fold."""


@dataclass(frozen=True)
class Place:
    """One layer and direction of a model."""

    path: str
    """Of its BNLSTM in the model; empty if the model is one."""
    layer: int
    reverse: bool
    row: int
    """Its row in the states, (num_layers * num_directions, N, H)."""

    @property
    def suffix(self) -> str:
        """Of the parameters: `_l0`, `_l0_reverse`, `_l1`, ...."""
        return f"_l{self.layer}{'_reverse' * self.reverse}"

    @property
    def direction(self) -> str:
        """`forward` or `reverse`."""
        return "reverse" if self.reverse else "forward"

    def array_name(self, name: str) -> str:
        """Return what an array of the fold is called in a file: `rnn.bias_l0_reverse`."""
        return f"{self.path}{'.' * bool(self.path)}{name}{self.suffix}"

    def __str__(self) -> str:
        of = f" of {self.path}" if self.path else ""
        return f"layer {self.layer}, {self.direction} direction{of}"


def bnlstms(model: nn.Module) -> dict[str, BNLSTM]:
    """Return the BNLSTM modules of a model by path, "" for `model` itself."""
    return {path: m for path, m in model.named_modules() if isinstance(m, BNLSTM)}


def places(model: nn.Module) -> Iterator[Place]:
    """Yield the layers and directions of a model, in the order of their states."""
    for path, module in bnlstms(model).items():
        for row, (layer, suffix) in enumerate(module.directions()):
            yield Place(path, layer, suffix.endswith("_reverse"), row)


def find_nodes(model: nn.Module, proto: onnx.ModelProto) -> dict[Place, onnx.NodeProto]:
    """Return the node of each layer and direction, in the order in which the graph runs them.

    Raises:
        VerificationError: A layer has no node, or a node no layer: the file is of another model.
    """
    by_weight = {place.array_name("weight_ih"): place for place in places(model)}
    nodes = [n for n in proto.graph.node if (n.domain, n.op_type) == (DOMAIN, NAME)]
    found = {
        by_weight[inputs_of(node)["weight_ih"]]: node
        for node in nodes
        if inputs_of(node)["weight_ih"] in by_weight
    }
    if len(found) != len(by_weight) or len(found) != len(nodes):
        weights = [inputs_of(node)["weight_ih"] for node in nodes]
        raise VerificationError(
            f"the file's {DOMAIN}::{NAME} nodes have the input weights {weights}, the model's are "
            f"{list(by_weight)}; diagnose the file with the model that it was exported from"
        )
    return found


def find_arrays(model: nn.Module, proto: onnx.ModelProto) -> dict[Place, dict[str, str]]:
    """Return the names in a file of each layer's and direction's arrays, by the operator's inputs.

    Raises:
        VerificationError: As `find_nodes`; of an inlined file, if a layer has no weights in it.
    """
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    if properties.get(INLINED) != "true":
        return {place: inputs_of(node) for place, node in find_nodes(model, proto).items()}
    held = {entry.name for entry in proto.graph.initializer}
    found = {
        place: {n: label for n in ARRAYS if (label := place.array_name(n)) in held}
        for place in places(model)
    }
    bare = [str(place) for place, arrays in found.items() if "weight_ih" not in arrays]
    if bare:
        raise VerificationError(
            f"the inlined file has no weights of {', '.join(bare)}; check it against the model "
            "that it was exported from"
        )
    return found


def inputs_of(node: onnx.NodeProto) -> dict[str, str]:
    """Return the names of a node's values by those of the operator's inputs, without empty ones."""
    pairs = zip(Inputs._fields, node.input, strict=False)
    return {name: value for name, value in pairs if value}
