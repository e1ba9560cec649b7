"""What a Triton server shows of an exported file: each tensor's name, type, and size of a stream.

Triton puts the requests of a batch together along the first axis of every tensor, so each tensor
is (N, ...) to it, wherever the exported graph has the batch.
"""

from collections.abc import Mapping
from typing import NamedTuple

from bnlstm_deploy.dtypes import OUTSIDE
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.metadata import CARRIED
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.signature import BATCH, Array, Value


class Tensor(NamedTuple):
    """An input or output."""

    name: str
    """For the server and its clients."""
    graph_name: str
    """In the exported file."""
    axis: int
    """The batch axis in the exported file."""
    type: str
    """Such as `TYPE_FP32`."""
    dims: tuple[int, ...]
    """Sizes without the batch, -1 for a dynamic one."""
    flat: bool
    """Whether the exported file has (N,), which the server shows as (N, 1)."""


class Carried(NamedTuple):
    """A state that the server keeps between the chunks of a stream."""

    input: Tensor
    output: Tensor
    initial: Array
    """What a stream starts from, of shape `input.dims`."""


class Interface(NamedTuple):
    """All tensors of a deployment."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    carried: tuple[Carried, ...]
    """Empty if whole sequences are served."""


def describe(session: Session, *, sequence: bool, lengths: bool) -> Interface:
    """Describe a deployment of an exported file.

    Args:
        session: The file.
        sequence: Whether the server keeps the states of streams. If not, whole sequences are
            served, and their final states are outputs.
        lengths: Whether clients pass `lengths`, to pad sequences to a common time.

    Raises:
        InputError: The file cannot continue streams and `sequence` is asked for, it has no
            `lengths` or requires its states, or a tensor has no batch axis.
    """
    if session.absent:
        raise InputError(
            "the file requires its states, which it is for the server to know; convert the model "
            "without --state required"
        )
    metadata = session.metadata
    optional = {value.name: value for value in session.state_inputs}
    inputs = [_tensor(session, value) for value in session.inputs]
    outputs = [_tensor(session, value) for value in session.outputs]
    if lengths:
        names = [layers.value_name("lengths") for layers in metadata.layers]
        inputs += [_tensor(session, _optional(optional, name)) for name in names]
    if sequence:
        return Interface(tuple(inputs), tuple(outputs), _carried(session, optional))
    finals = [
        _tensor(session, value)
        for value in session.state_outputs
        if value.name.rpartition(".")[2] in ("h_n", "c_n")
    ]
    return Interface(tuple(inputs), (*outputs, *finals), ())


def _carried(session: Session, optional: Mapping[str, Value]) -> tuple[Carried, ...]:
    """Describe the states of streams, under names by which Triton pairs them."""
    results = {value.name: value for value in session.state_outputs}
    pairs = []
    for why in session.signature.whole.values():
        raise InputError(f"this is {why}. Serve whole sequences: no sequence batching")
    for layers in session.metadata.layers:
        _optional(optional, layers.value_name("lengths"))  # else initial states do not show
        for given, left in CARRIED.items():
            into = _optional(optional, layers.value_name(given))
            pairs.append(
                (_tensor(session, into), _tensor(session, results[layers.value_name(left)]))
            )
    initial = session.signature.initial(session.run)
    width = len(str(len(pairs) - 1))
    return tuple(
        # Triton pairs the sorted inputs with the sorted outputs (its issue 8586), whatever its
        # configuration says: the number makes the two orders one.
        Carried(
            into._replace(name=f"state_{number:0{width}}_in"),
            left._replace(name=f"state_{number:0{width}}_out"),
            _of_one_stream(initial[into.graph_name]),
        )
        for number, (into, left) in enumerate(pairs)
    )


def _of_one_stream(state: Array) -> Array:
    return state if state.ndim == 1 else state[:, 0]


def _optional(optional: Mapping[str, Value], name: str) -> Value:
    if name not in optional:
        raise InputError(
            f"the graph has no input {name!r}: the exported model passes that to its BNLSTM "
            "itself. Serve whole sequences, without sequence batching and without lengths"
        )
    return optional[name]


def _tensor(session: Session, value: Value) -> Tensor:
    axis = session.signature.batch_axes.get(value.name)
    if axis is None:
        raise InputError(
            f"{value.name!r} has the axes {value.shape} and none is called {BATCH!r}; Triton puts "
            "requests together along it, so every input and output needs one"
        )
    dtype = "" if value.dtype is None else value.dtype.name
    if dtype not in OUTSIDE:
        raise InputError(f"{value.name!r} has a type that is not one of {', '.join(OUTSIDE)}")
    others = value.shape[:axis] + value.shape[axis + 1 :]
    dims = tuple(axis if isinstance(axis, int) else -1 for axis in others)
    kind = f"TYPE_{OUTSIDE[dtype].protocol}"
    return Tensor(value.name, value.name, axis, kind, dims or (1,), flat=not dims)
