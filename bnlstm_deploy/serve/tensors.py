"""Tensors of the protocol as arrays, checked so that nothing odd goes further.

kserve's own conversions make a Python object of each element, and numpy guesses where data and
shape, or data and type, do not fit: a string becomes a number and 1.5 the integer 1.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from types import NoneType
from typing import Any

import numpy as np
from kserve import InferInput, InferRequest
from kserve.protocol.infer_type import to_http_parameters

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.serve.sequences import Chunk
from bnlstm_deploy.signature import Array, Value

LITERALS: Mapping[str, set[type]] = {"f": {float, int, NoneType}, "i": {int}, "b": {bool}}
"""Which JSON values a kind of tensor takes. JSON writes NaN as null, and 1.0 as 1."""

MAX_ID = 256
"""Characters of a sequence's name: the server holds it as long as the sequence."""


def read_tensors(request: InferRequest, known: Sequence[Value]) -> dict[str, Array]:
    """Return the arrays of a request by input name.

    Args:
        request: The request.
        known: The model's inputs.

    Returns:
        Arrays of the model's types and of the ranks and sizes that the request declares.

    Raises:
        InputError: A name is not known or given twice, a type is another than the model's, or
            shape and data do not fit.
    """
    values = {value.name: value for value in known}
    arrays: dict[str, Array] = {}
    for given in request.inputs:
        if given.name not in values:
            raise InputError(f"the model has no input {given.name!r:.100}; it has {[*values]}")
        if given.name in arrays:
            raise InputError(f"the input {given.name!r} is given twice")
        arrays[given.name] = _read(given, values[given.name])
    return arrays


def read_chunk(request: InferRequest) -> Chunk | None:
    """Return what the request's parameters say of a sequence; None if it is in none.

    Raises:
        InputError: They have wrong types, or begin or end a sequence without a name.
    """
    parameters = to_http_parameters(request.parameters or {})
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


def read_outputs(request: InferRequest, known: Sequence[Value]) -> list[str] | None:
    """Return the names of the outputs that a request wants; None for all.

    Raises:
        InputError: One is not known or wanted twice.
    """
    wanted = [output.name for output in request.request_outputs or ()]
    names = [value.name for value in known]
    for name in wanted:
        if name not in names:
            raise InputError(f"the model has no output {name!r:.100}; it has {names}")
    if len({*wanted}) < len(wanted):
        raise InputError(f"an output is asked for twice in {wanted}")
    return wanted or None


def _read(given: InferInput, value: Value) -> Array:
    if value.dtype is None or given.datatype != value.datatype:
        raise InputError(
            f"{given.name!r} is {given.datatype:.20}, the model takes {value.datatype}"
        )
    shape = tuple(given.shape)
    if not all(type(size) is int and size >= 0 for size in shape):
        raise InputError(f"{given.name!r} has the shape {shape!r:.100}; pass integers from 0 on")
    if len(shape) != len(value.shape):
        raise InputError(
            f"{given.name!r} has {len(shape)} axes; the model takes {len(value.shape)}: "
            f"{value.described()['shape']}, -1 for any size"
        )
    raw = given._raw_data  # kserve has no public name for it
    if raw is None:
        return _from_values(given.name, given.data, value.dtype, shape)
    size = math.prod(shape) * value.dtype.itemsize
    if len(raw) != size:
        raise InputError(
            f"{given.name!r} has {len(raw)} bytes; its shape {shape} of {value.datatype} is {size}"
        )
    return np.frombuffer(raw, value.dtype).reshape(shape)


def _from_values(
    name: str, data: object, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> Array:
    """Return the array of JSON's or protobuf's values, flat or nested as the shape is."""
    if not isinstance(data, list):
        raise InputError(f"the data of {name!r} is a {type(data).__name__}; pass a list")
    nested, values = _flatten(name, data)
    if nested != shape and nested != (math.prod(shape),):
        raise InputError(f"the data of {name!r} has shape {nested!r:.100}, not {shape}")
    wrong = {*map(type, values)} - LITERALS[dtype.kind]
    if wrong:
        raise InputError(
            f"the data of {name!r} has {sorted(kind.__name__ for kind in wrong)}, which are no "
            f"{dtype.name} values; NaN is null, or sent in binary"
        )
    try:
        with np.errstate(over="raise"):
            # Through float64, because numpy turns null into NaN only when it makes an array.
            array = np.array(values, np.float64 if dtype.kind == "f" else dtype)
            return array.astype(dtype, copy=False).reshape(shape)
    except (FloatingPointError, OverflowError) as error:
        raise InputError(f"a value of {name!r} is out of the range of {dtype.name}") from error


def _flatten(name: str, data: list[Any]) -> tuple[tuple[int, ...], list[Any]]:
    """Return the shape and the values of nested lists."""
    shape = [len(data)]
    while list in (kinds := {*map(type, data)}):
        lengths = {*map(len, data)} if len(kinds) == 1 else set()
        if len(lengths) != 1:
            raise InputError(f"the data of {name!r} is ragged: its lists differ in length or depth")
        shape += lengths
        data = [*chain.from_iterable(data)]
    return tuple(shape), data
