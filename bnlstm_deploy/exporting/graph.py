"""From the graph that torch's exporter wrote to the finished ONNX file."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
from numpy.typing import NDArray

from bnlstm_deploy.errors import ExportError
from bnlstm_deploy.exporting import forms
from bnlstm_deploy.exporting.forms.parts import Site
from bnlstm_deploy.exporting.op import (
    DOMAIN,
    FOLDING_PROPERTY,
    FORM_PROPERTY,
    H_LEVELS,
    NAME,
    VERSION,
    Inputs,
)
from bnlstm_deploy.metadata import Metadata
from bnlstm_deploy.version import __version__

WRAPPER = "lifted.model."
"""Path of the user's model inside the module that is traced; their names go without it."""


def finish(
    model: ir.Model, metadata: Metadata, defaults: Mapping[str, NDArray[np.generic]]
) -> onnx.ModelProto:
    """Complete a traced graph and check it.

    Args:
        model: The traced graph, changed in place.
        metadata: Written into the file's metadata properties.
        defaults: Values that inputs of the graph take when they are left out, by name.

    Raises:
        ExportError: `onnx.checker` finds fault with the result, or the time of a node that is to
            be unrolled is dynamic.
    """
    model.opset_imports[DOMAIN] = VERSION
    model.producer_name = "bnlstm-deploy"
    model.producer_version = __version__
    model.graph.name = "bnlstm"
    model.metadata_props.update(metadata.to_properties())
    for value in list(model.graph.initializers.values()):
        value.name = str(value.name).removeprefix(WRAPPER)
    for node in model.graph:
        if (node.domain, node.op_type) == (DOMAIN, NAME):
            _attach_function(model, node)
    for value in model.graph.inputs:
        name = str(value.name)
        if name in defaults:
            value.const_value = ir.tensor(defaults[name], name=name)
            model.graph.register_initializer(value)
    proto = ir.to_proto(model)
    if metadata.inlined:
        proto = onnx.inliner.inline_local_functions(proto)
        standard = [entry for entry in proto.opset_import if entry.domain != DOMAIN]
        del proto.opset_import[:]
        proto.opset_import.extend(standard)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    return proto


def check_dynamic(model: ir.Model, axes: Mapping[str, Mapping[int, str]]) -> None:
    """Check that axes which must be dynamic came out so; the exporter fixes some silently.

    Args:
        model: The traced graph.
        axes: For each input by name, the names of its dynamic axes.

    Raises:
        ExportError: An axis is a fixed size in the graph.
    """
    for value in model.graph.inputs:
        for axis, dimension in axes.get(str(value.name), {}).items():
            if value.shape is not None and isinstance(value.shape[axis], int):
                raise ExportError(
                    f"axis {axis} ({dimension}) of {value.name!r} came out fixed at "
                    f"{value.shape[axis]}: something in the model depends on its size. Avoid "
                    "Python numbers made from shapes, or declare the axis fixed in dynamic_shapes"
                )


def _attach_function(model: ir.Model, node: ir.Node) -> None:
    form, folding = (node.metadata_props[name] for name in (FORM_PROPERTY, FOLDING_PROPERTY))
    site = _site(node, model.opset_imports[""])
    if form == forms.unrolled.FORM and site.time is None:
        raise ExportError(
            "the form unrolled needs a fixed time axis, and that of a BNLSTM's input came out "
            "dynamic; in dynamic_shapes, call the time axes 'time'"
        )
    proto = forms.function(form, folding, site)
    node.overload = proto.overload
    function = ir.serde.deserialize_function(proto)
    model.functions.setdefault(function.identifier(), function)


def _site(node: ir.Node, opset: int) -> Site:
    values = {
        name: value
        for name, value in zip(Inputs._fields, node.inputs, strict=False)
        if value is not None
    }
    weight, bias = _constant(values["weight_hh"]), _constant(values["bias"])
    rows = _constant(values["rows"]) if "rows" in values else np.arange(len(bias))
    shape = values["X"].shape
    dtype, stored = (_dtype_name(values[name]) for name in ("X", "weight_hh"))
    time = None if shape is None else shape[0]
    return Site(
        present=tuple(values),
        opset=opset,
        hidden_size=weight.shape[1],
        num_rows=len(bias),
        rows=tuple(int(row) for row in rows),
        time=time if isinstance(time, int) else None,
        dtype=dtype,
        weights=None if stored == dtype else stored,
        h_levels=node.attributes.get_int(H_LEVELS, 0),
    )


def _dtype_name(value: ir.Value) -> str:
    assert value.dtype is not None
    return str(value.dtype.numpy().name)


def _constant(value: ir.Value) -> NDArray[np.generic]:
    assert value.const_value is not None
    return value.const_value.numpy()
