"""What the CUDA provider leaves to the CPU although it has a kernel.

The rules are those of `CUDAExecutionProvider::GetCapability` in
onnxruntime/core/providers/cuda/cuda_execution_provider.cc, for the recurrent operators, Cast,
ArgMax and ArgMin.
"""

import onnx
from onnx import AttributeProto, NodeProto, TensorProto

ACTIVATIONS = {
    "LSTM": ("sigmoid", "tanh", "tanh") * 2,
    "RNN": ("tanh",) * 2,
    "GRU": ("sigmoid", "tanh") * 2,
}
"""cuDNN's activations, for two directions."""

PEEPHOLES = 7
"""The input P of LSTM."""


def refusal(node: NodeProto) -> str:
    """Return why the CUDA provider does not take a node that it has a kernel for, or ''."""
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if _is_plain(a)}
    if node.op_type in ACTIVATIONS:
        return _recurrent(node, values)
    if node.op_type == "Cast" and values.get("to") == TensorProto.STRING:
        return "the CUDA kernel of Cast does not write strings"
    if node.op_type in ("ArgMax", "ArgMin") and values.get("select_last_index"):
        return f"the CUDA kernel of {node.op_type} does not select the last index"
    return ""


def _is_plain(attribute: AttributeProto) -> bool:
    return attribute.type in (AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.FLOATS) or (
        attribute.type == AttributeProto.STRINGS
    )


def _recurrent(node: NodeProto, values: dict[str, object]) -> str:
    kernel = f"the CUDA kernel of {node.op_type}, which is cuDNN's,"
    for name in ("clip", "activation_alpha", "activation_beta"):
        if name in values:  # whatever its value
            return f"{kernel} has no {name}"
    activations = values.get("activations", [])
    assert isinstance(activations, list)
    names = [name.decode().lower() for name in activations]
    known = ACTIVATIONS[node.op_type][: len(names)]
    if names != list(known):
        return f"{kernel} has the activations {', '.join(known)}; these are {', '.join(names)}"
    if node.op_type == "LSTM" and values.get("input_forget", 0) != 0:
        return f"{kernel} does not couple the input and forget gates"
    # As ONNX Runtime has it, a GRU is refused only if it says linear_before_reset=0 explicitly.
    if node.op_type == "GRU" and values.get("linear_before_reset", 1) != 1:
        return f"{kernel} applies the reset gate after the product: linear_before_reset=1"
    if node.op_type == "LSTM" and len(node.input) > PEEPHOLES and node.input[PEEPHOLES]:
        return f"{kernel} has no peepholes"
    return ""
