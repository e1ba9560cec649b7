"""An inference request as the protocol has it, checked so that nothing odd goes further.

REST and gRPC read their own bodies; what tensors and parameters mean is the same for both.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import msgspec
import numpy as np

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.serve.sequences import Chunk
from bnlstm_deploy.signature import Array, Value

MAX_ID = 256
"""Characters of a sequence's name: the server holds it as long as the sequence."""

INLINE = 2**16
"""Bytes that are read, or numbers that are written, so soon that a thread would take longer."""

PIECE = 2**18
"""Bytes of JSON, or numbers of a protobuf, that become numbers at once: other threads run between
two pieces."""

BETWEEN = b"[] \t\r\n"
"""What is around JSON's numbers beside commas."""

NUMBERS: Mapping[str, Any] = {"f": list[float | None], "i": list[int], "b": list[bool]}
"""What JSON may hold for a kind of tensor; NaN is null, and 1 a float too."""


class InferRequest(NamedTuple):
    """An inference request."""

    id: str
    """The client's own name for it, or empty."""
    arrays: dict[str, Array]
    """The inputs, of the model's types; their sizes are not checked yet."""
    outputs: list[str] | None
    """The outputs that are wanted; None for all."""
    chunk: Chunk | None
    """Which chunk of which sequence it is."""
    timeout: float | None
    """Seconds that it may wait for its run; None for the server's."""


class Described(NamedTuple):
    """A tensor without its data."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


def describe(
    name: str,
    datatype: str,
    shape: Sequence[object],
    known: Sequence[Value],
    given: Mapping[str, Array],
) -> Described:
    """Check name, type and rank of an input.

    Args:
        name: Its name.
        datatype: The protocol's name of its type.
        shape: Its sizes.
        known: The model's inputs.
        given: The inputs before it.

    Raises:
        InputError: The name is not known or given twice, the type is another than the model's, or
            the shape cannot be one of it.
    """
    value = next((value for value in known if value.name == name), None)
    if value is None:
        names = [value.name for value in known]
        raise InputError(f"the model has no input {name!r:.100}; it has {names}")
    if name in given:
        raise InputError(f"the input {name!r} is given twice")
    if value.dtype is None or datatype != value.datatype:
        raise InputError(f"{name!r} is {datatype:.20}, the model takes {value.datatype}")
    sizes = tuple(size for size in shape if type(size) is int and size >= 0)
    if len(sizes) < len(shape):
        raise InputError(f"{name!r} has the shape {shape!r:.100}; pass integers from 0 on")
    if len(sizes) != len(value.shape):
        raise InputError(
            f"{name!r} has {len(sizes)} axes; the model takes {len(value.shape)}: "
            f"{value.described()['shape']}, -1 for any size"
        )
    return Described(name, value.dtype, sizes)


def from_bytes(tensor: Described, data: bytes | memoryview) -> Array:
    """Return the array of binary data.

    Raises:
        InputError: It has another size.
    """
    size = math.prod(tensor.shape) * tensor.dtype.itemsize
    if len(data) != size:
        raise InputError(
            f"{tensor.name!r} has {len(data)} bytes; its shape {tensor.shape} of "
            f"{tensor.dtype.name} is {size}"
        )
    return np.frombuffer(data, tensor.dtype).reshape(tensor.shape)


def from_json(tensor: Described, data: bytes) -> Array:
    """Return the array of data in JSON, flat or nested as the shape is.

    No object is made of a list but of a piece of the numbers in it: memory is that of the array.

    Args:
        tensor: What it has to be.
        data: JSON that is known to be valid.

    Raises:
        InputError: It is no list, has another shape, or its values are no numbers of the type.
    """
    if not data.startswith(b"["):
        raise InputError(f"the data of {tensor.name!r} is no list; pass a list of numbers")
    numbers = data.translate(None, BETWEEN)
    structure = data.translate(None, bytes(set(range(256)) - set(b"[,]")))
    if math.prod(tensor.shape):
        count = numbers.count(b",") + 1 if numbers else 0
    else:
        count = len(numbers.strip(b","))  # commas may be between lists that are empty
    flat = b"[" + b"," * (count - 1) + b"]"
    if count != math.prod(tensor.shape) or structure not in (flat, _nested(tensor, len(data))):
        raise InputError(
            f"the data of {tensor.name!r} is not of shape {tensor.shape}: pass {count} numbers "
            "as one list, or as lists in lists that have that shape"
        )
    pieces = _pieces(numbers) if count else ()
    return _join(tensor, (_decoded(tensor, piece) for piece in pieces))


def from_numbers(tensor: Described, numbers: Sequence[object]) -> Array:
    """Return the array of numbers that are known to be of the right kind.

    Raises:
        InputError: Their number is not that of the shape, or one is out of range.
    """
    if len(numbers) != math.prod(tensor.shape):
        raise InputError(
            f"{tensor.name!r} has {len(numbers)} values; its shape {tensor.shape} needs "
            f"{math.prod(tensor.shape)}"
        )
    starts = range(0, len(numbers), PIECE)
    return _join(tensor, (numbers[start : start + PIECE] for start in starts))


def read_parameters(parameters: Mapping[str, object]) -> tuple[Chunk | None, float | None]:
    """Return what a request's parameters say of a sequence, and of its time.

    Args:
        parameters: `sequence_id`, `sequence_start`, `sequence_end`, `timeout` in microseconds, and
            `priority`, which may be 0 alone; others are not for this server.

    Raises:
        InputError: They have wrong types or values, or begin or end a sequence without a name.
    """
    timeout = parameters.get("timeout", 0)
    if type(timeout) is not int or timeout < 0:
        raise InputError(f"timeout is {timeout!r:.40}; pass microseconds as an integer from 0 on")
    if parameters.get("priority", 0) != 0:
        raise InputError("priority is given; this server has none: leave it out, or pass 0")
    return read_chunk(parameters), timeout / 1e6 if timeout else None


def check_outputs(
    wanted: Sequence[tuple[str, Mapping[str, object]]], known: Sequence[Value]
) -> list[str] | None:
    """Return the names of the outputs that a request wants; None for all.

    Args:
        wanted: Their names and parameters.
        known: The model's outputs.

    Raises:
        InputError: One is not known or wanted twice, or in a way that this server does not have.
    """
    names = [value.name for value in known]
    for name, parameters in islice(wanted, len(names) + 1):
        if name not in names:
            raise InputError(f"the model has no output {name!r:.100}; it has {names}")
        if parameters.get("classification", 0) != 0:
            raise InputError(
                f"a classification of {name!r} is asked for; ask for the output itself, of which "
                "numpy.argsort gives the classes"
            )
    asked = [name for name, _ in wanted]
    if len({*asked}) < len(asked):
        raise InputError(f"an output is asked for twice; there are {names}")
    return asked or None


def read_chunk(parameters: Mapping[str, object]) -> Chunk | None:
    """Return which chunk of which sequence a request's parameters make it; None if of none.

    Raises:
        InputError: They have wrong types or values, or begin or end a sequence without a name.
    """
    name = parameters.get("sequence_id", 0)
    start, end = (parameters.get(f"sequence_{which}", False) for which in ("start", "end"))
    if isinstance(name, bool) or not isinstance(name, int | str):
        raise InputError(f"sequence_id is a {type(name).__name__}; pass an integer or a string")
    if not (isinstance(start, bool) and isinstance(end, bool)):
        raise InputError("sequence_start and sequence_end must be true or false")
    if isinstance(name, str) and len(name) > MAX_ID:
        raise InputError(f"sequence_id has {len(name)} characters; pass at most {MAX_ID}")
    if name not in (0, ""):  # the protocol's way to say none
        return Chunk(name, start, end)
    if start or end:
        raise InputError(
            "sequence_start or sequence_end is given without a sequence_id; pass one that is "
            "neither 0 nor empty"
        )
    return None


def _nested(tensor: Described, most: int) -> bytes | None:
    """Return brackets and commas of nested lists of a shape; None if that is longer than `most`."""
    shape = tensor.shape[: tensor.shape.index(0) + 1] if 0 in tensor.shape else tensor.shape
    text = b"[" + b"," * (min(shape[-1], most) - 1) + b"]"
    for size in reversed(shape[:-1]):
        if size * (len(text) + 1) > most:
            return None
        text = b"[" + b",".join([text] * size) + b"]"
    return text


def _pieces(numbers: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(numbers):
        end = numbers.find(b",", start + PIECE)
        end = len(numbers) if end < 0 else end
        yield numbers[start:end]
        start = end + 1


def _decoded(tensor: Described, piece: bytes) -> Sequence[object]:
    try:
        numbers: Sequence[object] = msgspec.json.decode(
            b"[" + piece + b"]", type=NUMBERS[tensor.dtype.kind]
        )
    except msgspec.DecodeError as error:
        raise InputError(
            f"the data of {tensor.name!r} has what is no {tensor.dtype.name}: {error}; NaN is "
            "null, or sent in binary"
        ) from error
    return numbers


def _join(tensor: Described, pieces: Iterator[Sequence[object]]) -> Array:
    """Return the array of numbers that come in pieces."""
    array = np.empty(math.prod(tensor.shape), tensor.dtype)
    # Through float64, because numpy turns null into NaN only when it makes an array.
    through = np.float64 if tensor.dtype.kind == "f" else tensor.dtype
    end = 0
    try:
        with np.errstate(over="raise"):
            for piece in pieces:
                start, end = end, end + len(piece)
                array[start:end] = np.array(piece, through)
    except (FloatingPointError, OverflowError) as error:
        raise InputError(
            f"a value of {tensor.name!r} is out of the range of {tensor.dtype.name}"
        ) from error
    return array.reshape(tensor.shape)
