"""Bodies of REST requests as kserve's types, and its answers as bodies, tensors in binary or JSON.

kserve's own readers trust the body (a missing field is an error 500), and go through each element
of a tensor in Python, a binary one too; its JSON writer refuses NaN.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import orjson
from kserve import InferInput, InferRequest, InferResponse
from kserve.protocol.infer_type import RequestedOutput

from bnlstm_deploy.errors import InputError

JSON_LENGTH = "Inference-Header-Content-Length"
"""The header that says where JSON ends and the binary tensors begin."""


class _Input(msgspec.Struct):
    name: str
    shape: list[Any]
    datatype: str
    data: Any = msgspec.UNSET
    parameters: dict[str, Any] | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Body(msgspec.Struct):
    """A request, as far as it is read; `serve.tensors` looks at shapes and data."""

    inputs: list[_Input] | None = None
    outputs: list[_Output] | None = None
    id: str | None = None
    parameters: dict[str, Any] | None = None


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
        request = msgspec.json.decode(memoryview(body)[:end], type=_Body)
    except msgspec.ValidationError as error:
        raise InputError(f"the request is not the protocol's: {error}") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        hint = " (NaN is null, or sent in binary)" if b"NaN" in body[:end] else ""
        raise InputError(f"the body is not JSON: {error}{hint}") from error
    if not request.inputs:
        raise InputError("the request has no inputs")
    tensors, raw, rest = [], [], memoryview(body)[end:]
    for given in request.inputs:
        values = None if given.data is msgspec.UNSET else given.data
        tensors.append(InferInput(given.name, given.shape, given.datatype, values))
        data, rest = _take(given, rest)
        raw.append(data)
    if len(rest):
        raise InputError(f"{len(rest)} bytes follow the last binary tensor")
    return InferRequest(
        model_name=model,
        request_id=request.id or "",
        infer_inputs=tensors,
        raw_inputs=raw,
        parameters=request.parameters or {},
        request_outputs=[
            RequestedOutput(output.name, output.parameters or {})
            for output in request.outputs or ()
        ],
    )


def write_response(request: InferRequest, response: InferResponse) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of the answer; NaN and infinities are null where it is JSON."""
    default = (request.parameters or {}).get("binary_data_output", False)
    wanted = {output.name: output.binary_data for output in request.request_outputs or ()}
    outputs: list[dict[str, Any]] = []
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


def _take(given: _Input, rest: memoryview) -> tuple[memoryview | None, memoryview]:
    """Return the binary data of an input, if it has any, and what follows it."""
    size = (given.parameters or {}).get("binary_data_size")
    if (size is None) == (given.data is msgspec.UNSET):
        raise InputError(
            f"the input {given.name!r:.100} needs data or the parameter binary_data_size, and "
            "not both"
        )
    if size is None:
        return None, rest
    if type(size) is not int or not 0 <= size <= len(rest):
        raise InputError(
            f"binary_data_size of {given.name!r:.100} is {size!r:.40}; {len(rest)} bytes are "
            "left in the body"
        )
    return rest[:size], rest[size:]
