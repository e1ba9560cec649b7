"""A model as ONNX Runtime runs it: read, with functions inlined and dtypes inferred."""

from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import ModelProto

from bnlstm_deploy.dtypes import ELEMENT_TYPES, NATIVE
from bnlstm_deploy.errors import RuntimeSessionError
from tools.placement.functions import expand
from tools.placement.table import Table

OPERATOR = ("bnlstm", "BNLSTM")
"""That which the native kernel computes."""


def prepare(model: ModelProto | Path, table: Table, *, native: bool = False) -> ModelProto:
    """Return the model with functions inlined, as ONNX Runtime does, and with dtypes inferred.

    Functions are those of the model, and operators that ONNX defines as functions of others, if
    neither provider has a kernel of them, such as CastLike.

    Args:
        model: A model, or the path of its file.
        table: Which kernels there are.
        native: Whether the native kernel is registered, so that nodes that it takes stay.

    Raises:
        RuntimeSessionError: There is no such file, or it is no ONNX model.
    """
    name = "the model"
    if isinstance(model, Path):
        name = str(model)
        model = _read(model)
    if not model.HasField("graph"):
        raise RuntimeSessionError(f"{name} is not an ONNX model: it holds no graph")
    try:
        kept = [OPERATOR] if native and _is_native(model) else []
        inlined = onnx.inliner.inline_selected_functions(model, kept, exclude=True)
        return _infer(expand(_infer(inlined), table))
    except (RuntimeError, ValueError, DecodeError, onnx.shape_inference.InferenceError) as error:
        cause = str(error).strip().partition("\n")[0]
        raise RuntimeSessionError(
            f"{name} is not a valid ONNX model: {cause}. Try onnx.checker.check_model on it"
        ) from error


def _is_native(model: ModelProto) -> bool:
    """Whether the weights are of a dtype that the native kernel for CUDA takes."""
    if any(entry.key == "bnlstm.weights" for entry in model.metadata_props):
        return False
    types = {entry.name: entry.data_type for entry in model.graph.initializer}
    nodes = [node for node in model.graph.node if (node.domain, node.op_type) == OPERATOR]
    known = {ELEMENT_TYPES[dtype] for dtype in NATIVE["cuda"]}
    return all(types.get(node.input[1]) in known for node in nodes)


def _infer(model: ModelProto) -> ModelProto:
    return onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)


def _read(path: Path) -> ModelProto:
    """Read a file without its external data, which have no part in this."""
    try:
        return onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise RuntimeSessionError(f"{path} does not exist") from error
    except OSError as error:
        raise RuntimeSessionError(f"{path} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise RuntimeSessionError(
            f"{path} is not an ONNX model: damaged, truncated, or something else"
        ) from error
