"""Bodies of REST requests, and of their answers: tensors in JSON, or in binary behind it."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import orjson

from bnlstm_deploy.dtypes import PROTOCOL
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.serve.faults import TooLargeError
from bnlstm_deploy.serve.inference import (
    INLINE,
    PIECE,
    InferRequest,
    check_outputs,
    describe,
    from_bytes,
    from_json,
    read_parameters,
)
from bnlstm_deploy.serve.limits import Limits
from bnlstm_deploy.signature import Array, Value

JSON_LENGTH = "Inference-Header-Content-Length"
"""The header that says where JSON ends and the binary tensors begin."""

ENCODINGS = {"gzip": 31, "deflate": 15}
"""What bodies may be compressed by, and what zlib calls it."""

MOST_OBJECTS = 1000
"""JSON objects in a request: of inputs, outputs and their parameters."""

SMALL = 2**14
"""Bytes of JSON in one shape, or in the parameters of one thing."""

DIGITS = 12
"""Bytes in JSON that a number takes, about: what an answer may take is known before it is made."""

NOTHING = msgspec.Raw()

T = TypeVar("T")


class Input(msgspec.Struct):
    """An input of a request."""

    name: str
    shape: msgspec.Raw
    datatype: str
    data: msgspec.Raw = NOTHING
    parameters: msgspec.Raw = NOTHING


class Output(msgspec.Struct):
    """An output that a request asks for."""

    name: str
    parameters: msgspec.Raw = NOTHING


class Body(msgspec.Struct):
    """A request; what is not looked at here is not made into objects."""

    inputs: list[Input] | None = None
    outputs: list[Output] | None = None
    id: str | None = None
    parameters: msgspec.Raw = NOTHING


class Parsed(NamedTuple):
    """The body of a request."""

    id: str
    """The client's own name for it, or empty."""
    json: Body
    binary: memoryview
    """What follows the JSON."""


class RestRequest(NamedTuple):
    """A request by REST."""

    asked: InferRequest
    binary: Mapping[str, bool]
    """By output, whether it is wanted in binary, where that is said of it."""
    binary_by_default: bool


def decompress(body: bytes, encoding: str, limits: Limits) -> bytes:
    """Return a body as it was before it was compressed.

    Raises:
        InputError: It is not compressed by this encoding, or there is none of this name.
        TooLargeError: It is larger than the limit.
    """
    if encoding not in ENCODINGS:
        raise InputError(
            f"Content-Encoding is {encoding!r:.40}; send gzip, deflate, or the body as it is"
        )
    inflate = zlib.decompressobj(ENCODINGS[encoding])
    try:
        whole = inflate.decompress(body, limits.max_body)
    except zlib.error as error:
        raise InputError(f"the body is not {encoding}: {error}") from error
    if inflate.unconsumed_tail:
        raise TooLargeError(f"the body is larger than the server's max_body of {limits.max_body}")
    if not inflate.eof or inflate.unused_data:
        raise InputError(f"the body is not one whole {encoding}; send it again")
    return whole


def json_length(header: str | None, length: int) -> int:
    """Return where in a body the JSON ends.

    Args:
        header: JSON_LENGTH, if there is one.
        length: Of the body.

    Raises:
        InputError: The header is no number up to that.
    """
    if header is None:
        return length
    digits = header.isascii() and header.isdigit() and len(header) < 20
    if not digits or int(header) > length:
        raise InputError(f"{JSON_LENGTH} is {header!r:.40}; the body has {length} bytes")
    return int(header)


def parse(body: bytes, end: int, limits: Limits) -> Parsed:
    """Parse the body of an inference request; of tensors and parameters no object is made.

    Args:
        body: JSON, and after it the binary tensors.
        end: Where the JSON ends.
        limits: How much JSON it may have.

    Raises:
        InputError: The body is not what the protocol describes.
        TooLargeError: It has too much JSON.
    """
    if end > limits.max_json:
        raise TooLargeError(
            f"the request has {end} bytes of JSON; the server's limit max_json is "
            f"{limits.max_json}. Send tensors in binary"
        )
    json = body[:end]
    if json.count(b"{") > MOST_OBJECTS:
        raise InputError(f"the request has more than {MOST_OBJECTS} objects; no model needs them")
    content = _decode(json, Body, "request")
    return Parsed(content.id or "", content, memoryview(body)[end:])


def read(parsed: Parsed, inputs: Sequence[Value], outputs: Sequence[Value]) -> RestRequest:
    """Read a request for a model.

    Args:
        parsed: Its body.
        inputs: The model's.
        outputs: The model's.

    Raises:
        InputError: It is not for this model.
    """
    _, request, rest = parsed
    if not request.inputs:
        raise InputError("the request has no inputs")
    arrays: dict[str, Array] = {}
    for given in request.inputs:
        shape = _decode(_small(given.shape, "shape"), list[Any], "shape")
        tensor = describe(given.name, given.datatype, shape, inputs, arrays)
        data = bytes(given.data)
        size = _parameters(given.parameters).get("binary_data_size")
        if (size is None) == (not data):
            raise InputError(
                f"the input {given.name!r} needs data or the parameter binary_data_size, and not "
                "both"
            )
        if size is None:
            arrays[given.name] = from_json(tensor, data)
            continue
        if type(size) is not int or not 0 <= size <= len(rest):
            raise InputError(
                f"binary_data_size of {given.name!r} is {size!r:.40}; {len(rest)} bytes are left "
                "in the body"
            )
        arrays[given.name] = from_bytes(tensor, rest[:size])
        rest = rest[size:]
    if len(rest):
        raise InputError(f"{len(rest)} bytes follow the last binary tensor")
    parameters = _parameters(request.parameters)
    asked = [(output.name, _parameters(output.parameters)) for output in request.outputs or ()]
    wanted = check_outputs(asked, outputs)
    chunk, timeout = read_parameters(parameters)
    return RestRequest(
        InferRequest(parsed.id, arrays, wanted, chunk, timeout),
        {name: bool(given["binary_data"]) for name, given in asked if "binary_data" in given},
        bool(parameters.get("binary_data_output", False)),
    )


def is_short(request: RestRequest, results: Mapping[str, Array]) -> bool:
    """Return whether an answer is written so soon that a thread would take longer."""
    return sum(results[name].size for name in _in_json(request, results)) <= INLINE


def write_response(
    request: RestRequest,
    results: Mapping[str, Array],
    model: tuple[str, str],
    id: str,
    limits: Limits,
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return body and headers of the answer; NaN and infinities are null where it is JSON.

    Args:
        request: What was asked.
        results: The outputs by name, in the order in which they go out.
        model: Name and version.
        id: The request's.
        limits: How much JSON it may have.

    Raises:
        InputError: In JSON it would be too long.
    """
    in_json = _in_json(request, results)
    numbers = sum(results[name].size for name in in_json)
    if numbers * DIGITS > limits.max_json:
        raise InputError(
            f"the answer has {numbers} numbers, too many for JSON; ask for it in binary with the "
            "parameter binary_data_output"
        )
    outputs: list[bytes] = []
    raw: list[bytes] = []
    for name, array in results.items():
        entry: dict[str, Any] = {
            "name": name,
            "datatype": PROTOCOL[array.dtype],
            "shape": array.shape,
        }
        if name in in_json:
            data = b"[" + b",".join(_json_pieces(array)) + b"]"
            outputs.append(orjson.dumps(entry)[:-1] + b',"data":' + data + b"}")
        else:
            raw.append(array.tobytes())
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
            outputs.append(orjson.dumps(entry))
    names = orjson.dumps({"id": id, "model_name": model[0], "model_version": model[1]})
    header = names[:-1] + b',"outputs":[' + b",".join(outputs) + b"]}"
    if not raw:
        return header, [(b"content-type", b"application/json")]
    return b"".join((header, *raw)), [
        (b"content-type", b"application/octet-stream"),
        (JSON_LENGTH.lower().encode(), b"%d" % len(header)),
    ]


def _in_json(request: RestRequest, results: Mapping[str, Array]) -> list[str]:
    return [n for n in results if not request.binary.get(n, request.binary_by_default)]


def _json_pieces(array: Array) -> Iterator[bytes]:
    flat = np.ascontiguousarray(array).ravel()
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE]
        yield orjson.dumps(piece, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def _decode(json: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(json, type=kind)
    except msgspec.ValidationError as error:
        raise InputError(f"the {what} is not the protocol's: {error}") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        hint = " (NaN is null, or sent in binary)" if b"NaN" in json else ""
        raise InputError(f"the body is not JSON: {error}{hint}") from error


def _small(json: msgspec.Raw, what: str) -> bytes:
    text = bytes(json)
    if len(text) > SMALL:
        raise InputError(f"a tensor has {len(text)} bytes of {what}; pass at most {SMALL}")
    return text


def _parameters(json: msgspec.Raw) -> dict[str, Any]:
    text = _small(json, "parameters")
    return {} if text in (b"", b"null") else _decode(text, dict[str, Any], "parameters")
