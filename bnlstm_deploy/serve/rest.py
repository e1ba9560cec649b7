"""Bodies of REST requests as kserve's types, and its answers as bodies, tensors in binary or JSON.

kserve's own readers trust the body (a missing field is an error 500), and go through each element
of a tensor in Python, a binary one too; its JSON writer refuses NaN.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import orjson
from kserve import InferInput, InferRequest, InferResponse
from kserve.protocol.infer_type import RequestedOutput

from bnlstm_deploy.errors import InputError

JSON_LENGTH = "Inference-Header-Content-Length"
"""The header that says where JSON ends and the binary tensors begin."""

KINDS: Mapping[type, str] = {str: "a string", list: "a list", dict: "an object"}

Json = Mapping[str, Any]
T = TypeVar("T")


def read_request(body: bytes, headers: Mapping[str, str], model: str) -> InferRequest:
    """Read the body of an inference request.

    Args:
        body: JSON, and after it the binary tensors.
        headers: The request's, by lower-case name.
        model: The model's name.

    Raises:
        InputError: The body is not what the protocol describes.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise InputError(f"Content-Encoding is {encoding!r}; send the body uncompressed")
    end = _json_length(headers, len(body))
    try:
        request = orjson.loads(body[:end])
    except orjson.JSONDecodeError as error:
        hint = " (NaN is null, or sent in binary)" if b"NaN" in body[:end] else ""
        raise InputError(f"the body is not JSON: {error}{hint}") from error
    if not isinstance(request, dict):
        raise InputError(f"the body is a JSON {type(request).__name__}; pass an object")
    inputs = _objects(request, "inputs")
    if not inputs:
        raise InputError("the request has no inputs")
    tensors, raw, rest = [], [], memoryview(body)[end:]
    for given in inputs:
        tensors.append(_input(given))
        data, rest = _take(given, rest)
        raw.append(data)
    if len(rest):
        raise InputError(f"{len(rest)} bytes follow the last binary tensor")
    return InferRequest(
        model_name=model,
        request_id=_optional(request, "id", str),
        infer_inputs=tensors,
        raw_inputs=raw,
        parameters=_optional(request, "parameters", dict),
        request_outputs=[
            RequestedOutput(_field(output, "name", str), _optional(output, "parameters", dict))
            for output in _objects(request, "outputs")
        ],
    )


def write_response(request: InferRequest, response: InferResponse) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of the answer; NaN and infinities are null where it is JSON."""
    default = (request.parameters or {}).get("binary_data_output", False)
    wanted = {output.name: output.binary_data for output in request.request_outputs or ()}
    outputs: list[Json] = []
    raw: list[bytes] = []
    for output in response.outputs:
        entry = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
        binary = wanted.get(output.name)
        if default if binary is None else binary:
            raw.append(output.data.tobytes())
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = np.ascontiguousarray(output.data).ravel()
        outputs.append(entry)
    header = orjson.dumps(
        {
            "id": response.id,
            "model_name": response.model_name,
            "model_version": response.model_version,
            "outputs": outputs,
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
    if not raw:
        return header, {"Content-Type": "application/json"}
    return b"".join((header, *raw)), {
        "Content-Type": "application/octet-stream",
        JSON_LENGTH: str(len(header)),
    }


def _json_length(headers: Mapping[str, str], length: int) -> int:
    text = headers.get(JSON_LENGTH.lower())
    if text is None:
        return length
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= length):
        raise InputError(f"{JSON_LENGTH} is {text!r:.40}; the body has {length} bytes")
    return int(text)


def _input(given: Json) -> InferInput:
    return InferInput(
        name=_field(given, "name", str),
        shape=_field(given, "shape", list),
        datatype=_field(given, "datatype", str),
        data=given.get("data"),
    )


def _take(given: Json, rest: memoryview) -> tuple[memoryview | None, memoryview]:
    """Return the binary data of an input, if it has any, and what follows it."""
    size = _optional(given, "parameters", dict).get("binary_data_size")
    if (size is None) == ("data" not in given):
        raise InputError(
            f"the input {given['name']!r:.100} needs data or the parameter binary_data_size, and "
            "not both"
        )
    if size is None:
        return None, rest
    if type(size) is not int or not 0 <= size <= len(rest):
        raise InputError(
            f"binary_data_size of {given['name']!r:.100} is {size!r:.40}; {len(rest)} bytes are "
            "left in the body"
        )
    return rest[:size], rest[size:]


def _objects(parent: Json, name: str) -> list[Json]:
    values: list[Json] = _optional(parent, name, list)
    if not all(isinstance(value, dict) for value in values):
        raise InputError(f"{name!r} has entries that are no objects")
    return values


def _field(parent: Json, name: str, kind: type[T]) -> T:
    if name not in parent:
        raise InputError(f"the field {name!r} is missing")
    return _checked(name, parent[name], kind)


def _optional(parent: Json, name: str, kind: type[T]) -> T:
    """Return a field's value; an empty one if it is missing or null."""
    value = parent.get(name)
    return kind() if value is None else _checked(name, value, kind)


def _checked(name: str, value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise InputError(f"{name!r} must be {KINDS[kind]}, not {type(value).__name__}")
    return value
