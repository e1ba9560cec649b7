"""Checks of what a graph is fed, so that a mistake is a clear error and never a wrong number."""

from collections.abc import Mapping

import numpy as np

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.metadata import value_name
from bnlstm_deploy.signature import Array, Signature, Value

COUNTS = ("lengths", "start_step")
"""The optional inputs that count timesteps."""

LAST_STEP = 2**62
"""The last step to start at: those after it fit 64 bits as well."""


def check_feeds(feeds: Mapping[str, Array], signature: Signature) -> None:
    """Check names, ranks, dtypes, sizes and ranges of the arrays fed to a graph.

    Args:
        feeds: The arrays by input name.
        signature: The graph's.

    Raises:
        InputError: Anything is wrong; the message names the input.
    """
    required, optional = signature.inputs, signature.state_inputs
    values = {value.name: value for value in (*required, *optional)}
    missing = [value.name for value in required if value.name not in feeds]
    unknown = [name for name in feeds if name not in values]
    if missing or unknown:
        raise InputError(
            f"the inputs lack {missing} and have the unknown names {unknown}; this graph takes "
            f"{[v.name for v in required]} and optionally {[v.name for v in optional]}"
        )
    sizes: dict[str, tuple[int, str]] = {}
    for name, array in feeds.items():
        _check_array(array, values[name], sizes, signature.length)
    time = sizes.get("time")
    if signature.length is not None:
        time = (signature.length, required[0].name)
    batch = sizes.get("batch")
    for module in signature.modules:
        names = [value_name(module, kind) for kind in ("initial_h", "initial_c", *COUNTS)]
        for name in names:
            given = sizes.get(f"{name}_batch")
            if given and batch and given[0] != batch[0]:
                raise InputError(
                    f"{name!r} is for {given[0]} streams, {batch[1]!r} for {batch[0]}; the batch "
                    "sizes must agree"
                )
        h, c, lengths, steps = names
        _check_state(feeds, h, c)
        bound = None if time is None else (time[0], f"the time of {time[1]!r}")
        _check_range(feeds, lengths, bound)
        _check_range(feeds, steps, (LAST_STEP, "after which 64 bits end"))


def _check_array(
    array: Array, value: Value, sizes: dict[str, tuple[int, str]], length: int | None
) -> None:
    """Check one array, and collect the sizes of dynamic axes with the input that has them.

    `length` is the number of timesteps that the graph is unrolled for, if it is.
    """
    name = value.name
    if not isinstance(array, np.ndarray):
        raise InputError(f"{name!r} is a {type(array).__name__}; pass a numpy array")
    if value.dtype is not None and array.dtype != value.dtype:
        raise InputError(
            f"{name!r} is {array.dtype}, the graph takes {value.dtype}; convert it with "
            f".astype({value.dtype.name!r})"
        )
    expected = ", ".join(str(axis) for axis in value.shape)
    if array.ndim != len(value.shape):
        raise InputError(
            f"{name!r} has shape {array.shape}; this graph takes {len(value.shape)} axes "
            f"({expected})"
        )
    if array.size == 0:
        raise InputError(f"{name!r} has shape {array.shape}; pass at least one element")
    for size, axis in zip(array.shape, value.shape, strict=True):
        if isinstance(axis, int) and size != axis:
            unrolled = f", unrolled for T = {length} timesteps" if axis == length else ""
            raise InputError(
                f"{name!r} has shape {array.shape}; this graph takes ({expected}){unrolled}"
            )
        if isinstance(axis, str):
            known, other = sizes.setdefault(axis, (size, name))
            if known != size:
                raise InputError(
                    f"{name!r} has {axis} {size}, {other!r} has {known}; they must agree"
                )


def _check_state(feeds: Mapping[str, Array], h: str, c: str) -> None:
    if (h in feeds) != (c in feeds):
        given, absent = (h, c) if h in feeds else (c, h)
        raise InputError(f"{given!r} is given without {absent!r}; pass both or neither")


def _check_range(feeds: Mapping[str, Array], name: str, last: tuple[int, str] | None) -> None:
    if name not in feeds:
        return
    lowest, highest = int(feeds[name].min()), int(feeds[name].max())
    if lowest < 0 or (last is not None and highest > last[0]):
        bound = f" to {last[0]}, {last[1]}" if last is not None else " or more"
        raise InputError(f"{name!r} runs from {lowest} to {highest}; pass 0{bound}")
