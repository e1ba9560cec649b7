"""A model's signature, as far as the protocol's metadata tell it."""

from dataclasses import replace
from typing import Any

from bnlstm_deploy.errors import InputError, ServingError
from bnlstm_deploy.metadata import CARRIED, value_name
from bnlstm_deploy.signature import Signature, Value


def read_signature(metadata: Any) -> Signature:  # noqa: ANN401
    """Read the protocol's model metadata.

    Inputs are listed with the model's own first. A model may pass its BNLSTM lengths of its own:
    whether `lengths` is one of its own inputs shows in a call only, see `with_inputs`.

    Raises:
        ServingError: They are not that.
    """
    try:
        inputs, outputs = (
            [Value(str(tensor["name"]), None, ()) for tensor in metadata[kind]]
            for kind in ("inputs", "outputs")
        )
    except (LookupError, TypeError) as error:
        raise ServingError(
            "the answer is no model metadata of the Open Inference Protocol; look at the address "
            "and the model's name"
        ) from error
    names = [value.name for value in outputs]
    prefixes = [name.rpartition("h_n")[0] for name in names if name.rpartition(".")[2] == "h_n"]
    modules = tuple(prefix.removesuffix(".") for prefix in prefixes)
    optional = {value_name(m, kind) for m in modules for kind in (*CARRIED, "lengths")}
    states = {value_name(module, kind) for module in modules for kind in CARRIED.values()}
    own = max((n for n, value in enumerate(inputs, 1) if value.name not in optional), default=0)
    return Signature(
        tuple(inputs[:own]),
        tuple(inputs[own:]),
        tuple(value for value in outputs if value.name not in states),
        tuple(value for value in outputs if value.name in states),
        modules,
    )


def with_inputs(signature: Signature, number: int) -> Signature:
    """Return the signature with a number of own inputs, which may be more than are certain to be.

    Raises:
        InputError: The model cannot have that number.
    """
    more = number - len(signature.inputs)
    taken = signature.state_inputs[: max(more, 0)]
    if more < 0 or len(taken) < more or not all(v.name.endswith("lengths") for v in taken):
        own = [value.name for value in signature.inputs]
        raise InputError(f"{number} inputs given; this model takes {own}")
    return replace(
        signature,
        inputs=(*signature.inputs, *taken),
        state_inputs=signature.state_inputs[len(taken) :],
    )
