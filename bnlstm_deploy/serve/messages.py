"""The protocol's messages of gRPC as requests, and results as its messages.

The messages are those of tritonclient, which has the protocol's own proto with Triton's extensions.
"""

from collections.abc import Iterator, Mapping, Sequence

from tritonclient.grpc import service_pb2 as pb

from bnlstm_deploy.dtypes import PROTOCOL
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.serve.faults import TooLargeError
from bnlstm_deploy.serve.inference import (
    InferRequest,
    check_outputs,
    describe,
    from_bytes,
    from_numbers,
    read_chunk,
    read_parameters,
)
from bnlstm_deploy.serve.limits import Limits
from bnlstm_deploy.serve.sequences import Chunk
from bnlstm_deploy.signature import Array, Value

CONTENTS = {
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "BOOL": "bool_contents",
}
"""Where the numbers of a datatype are, unless they are in raw_input_contents."""

MOST_FIELDS = 1000
"""Fields of a message: inputs, outputs, parameters."""

MOST_STRUCTURE = 2**21
"""Bytes of a message beside numbers: of these a few could become millions of objects."""

INPUTS, RAW, INPUT_CONTENTS = 5, 7, 5
FLOATS = (6, 7)
"""Numbers of fields: in ModelInferRequest, in its inputs, and in their contents."""

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
"""Protobuf's ways to write a field."""


def parse(message: bytes, limits: Limits) -> pb.ModelInferRequest:
    """Parse a request, if it is certain not to take long.

    Args:
        message: As it came.
        limits: How much it may have beside raw_input_contents.

    Raises:
        InputError: It is no ModelInferRequest, or a large one of too many fields.
        TooLargeError: It has too much beside raw_input_contents.
    """
    if len(message) > MOST_STRUCTURE:
        structure, numbers = _weigh(message)
        if structure > MOST_STRUCTURE or numbers > limits.max_json:
            raise TooLargeError(
                f"the request has {structure + numbers} bytes beside raw_input_contents; send "
                "tensors there"
            )
    request = pb.ModelInferRequest()
    try:
        request.ParseFromString(message)
    except Exception as error:  # protobuf's is of another class in each implementation
        raise InputError(f"the message is no ModelInferRequest: {error}") from error
    return request


def chunk_of(request: pb.ModelInferRequest) -> Chunk | None:
    """Return which chunk of which sequence a request is, if of any.

    Raises:
        InputError: Its parameters do not say.
    """
    return read_chunk(_values(request.parameters))


def read(
    request: pb.ModelInferRequest, inputs: Sequence[Value], outputs: Sequence[Value]
) -> InferRequest:
    """Read a request for a model.

    Args:
        request: The message.
        inputs: The model's.
        outputs: The model's.

    Raises:
        InputError: It is not what the protocol describes, or not for this model.
    """
    if not request.inputs:
        raise InputError("the request has no inputs")
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs; pass one "
            "for each, or none"
        )
    arrays: dict[str, Array] = {}
    for number, given in enumerate(request.inputs):
        tensor = describe(given.name, given.datatype, given.shape, inputs, arrays)
        if raw and given.HasField("contents"):
            raise InputError(f"{given.name!r} has contents beside raw_input_contents; pass one")
        if raw:
            arrays[given.name] = from_bytes(tensor, raw[number])
        else:
            numbers = getattr(given.contents, CONTENTS[given.datatype])
            arrays[given.name] = from_numbers(tensor, numbers)
    asked = [(output.name, _values(output.parameters)) for output in request.outputs]
    wanted = check_outputs(asked, outputs)
    chunk, timeout = read_parameters(_values(request.parameters))
    return InferRequest(request.id, arrays, wanted, chunk, timeout)


def write(results: Mapping[str, Array], model: tuple[str, str], id: str) -> pb.ModelInferResponse:
    """Return the answer, with its tensors in raw_output_contents.

    Args:
        results: The outputs by name, in the order in which they go out.
        model: Name and version.
        id: The request's.
    """
    return pb.ModelInferResponse(
        model_name=model[0],
        model_version=model[1],
        id=id,
        outputs=[
            {
                "name": name,
                "datatype": PROTOCOL[array.dtype],
                "shape": array.shape,
            }
            for name, array in results.items()
        ],
        raw_output_contents=[array.tobytes() for array in results.values()],
    )


def _values(parameters: Mapping[str, pb.InferParameter]) -> dict[str, object]:
    """Return the values of parameters; one without is none."""
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in parameters.items()}
    return {name: getattr(parameters[name], kind) for name, kind in chosen.items() if kind}


def _weigh(message: bytes) -> tuple[int, int]:
    """Return how many bytes of a request become objects, and how many become numbers."""
    structure = numbers = 0
    for field, content in _fields(memoryview(message)):
        if field == INPUTS:
            for part, inner in _fields(content):
                packed = [(kind, len(rest)) for kind, rest in _first(inner)]
                if part == INPUT_CONTENTS and packed and packed[0][0] in FLOATS:
                    numbers += packed[0][1]
                    structure += len(inner) - packed[0][1]
                else:
                    structure += len(inner) + 1
        elif field != RAW:
            structure += len(content) + 1
    return structure, numbers


def _first(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the first field of a message, if there is one that can be read."""
    try:
        for field in _fields(message):
            yield field
            return
    except InputError:
        return


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of each field of a message in protobuf's wire format.

    Raises:
        InputError: It is not that, or has too many fields.
    """
    at = 0
    for _ in range(MOST_FIELDS):
        if at >= len(message):
            return
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == DELIMITED:
            length, at = _varint(message, at)
        elif kind == VARINT:
            start = at
            _, at = _varint(message, at)
            length, at = at - start, start
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise InputError("the message is no ModelInferRequest")
        if at + length > len(message):
            raise InputError("the message is no ModelInferRequest: it ends early")
        yield tag >> 3, message[at : at + length]
        at += length
    if at < len(message):
        raise InputError(f"the message has more than {MOST_FIELDS} fields; no model needs them")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
    raise InputError("the message is no ModelInferRequest: a number in it does not end")
