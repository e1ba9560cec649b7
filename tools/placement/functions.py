"""Operators that ONNX defines as functions of others, put into a model's nodes' place."""

from typing import Any

import onnx
import onnx.inliner
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, TypeProto

from tools.placement.scopes import Scope, onnx_name, scopes
from tools.placement.table import Table

DOMAIN = "tools.placement"
"""Of the functions while they are put in; no model that comes out has it."""


def expand(model: ModelProto, table: Table) -> ModelProto:
    """Return the model with operators replaced by what ONNX defines them as.

    Args:
        model: Changed in place. Its dtypes are inferred: functions can depend on them.
        table: Operators that it has kernels of are not replaced.
    """
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    kept = table.cpu | table.kernels.keys()
    found = [
        (node, function)
        for scope in scopes(model, table.cpu)
        for node in scope.nodes
        if (node.domain, node.op_type) not in kept
        if (function := _function(node, scope, opsets.get(node.domain, 1)))
    ]
    if not found:
        return model
    model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    for index, (node, function) in enumerate(found):
        function.domain, function.name = DOMAIN, f"{node.op_type}_{index}"
        del function.opset_import[:]  # a body is valid in later opsets, too, where it still applies
        function.opset_import.extend(model.opset_import)
        node.domain, node.op_type = function.domain, function.name
        model.functions.append(function)
    # onnx's own way, inline_schema_functions, does not find dtypes in the bodies of control flow.
    return onnx.inliner.inline_local_functions(model)


def _function(node: NodeProto, scope: Scope, opset: int) -> FunctionProto | None:
    try:
        # Any: onnx's type stubs lack the methods for functions
        schema: Any = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None
    function = FunctionProto()
    # Of each kind, the version with the highest opset that is not above the model's.
    versions = [v for v in schema.function_opset_versions if v <= opset]
    if versions:
        function.ParseFromString(schema.get_function_with_opset_version(max(versions)))
        return function
    versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
    names = [onnx_name(scope.dtypes.get(name, "")) for name in node.input]
    if not versions or not all(names):
        return None
    elements = [TypeProto.Tensor(elem_type=TensorProto.DataType.Value(name)) for name in names]
    types = [TypeProto(tensor_type=element).SerializeToString() for element in elements]
    body = schema.get_context_dependent_function_with_opset_version(
        max(versions), node.SerializeToString(), types
    )
    function.ParseFromString(body)
    return function
