"""A model's inputs and outputs by name, as the protocol's metadata tell them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.errors import InputError, ServingError
from bnlstm_deploy.metadata import CARRIED
from bnlstm_deploy.state import State

Array = NDArray[np.generic]

States = State | Mapping[str, State]
"""The state of a model's only BNLSTM, or of several by module path."""

Lengths = NDArray[np.int64] | Mapping[str, NDArray[np.int64]]
"""(N,) valid timesteps; of a model with several BNLSTM by module path."""


@dataclass(frozen=True)
class Signature:
    """The names of a model's inputs and outputs."""

    inputs: tuple[str, ...]
    """The model's own, in order, then those that may be left out."""
    outputs: tuple[str, ...]
    """The model's own, in order."""
    state_outputs: tuple[str, ...]
    """Final states and next steps."""
    modules: tuple[str, ...]
    """Module paths of the BNLSTM that give out their state; "" for the only one."""

    @classmethod
    def read(cls, metadata: Any) -> "Signature":  # noqa: ANN401
        """Read the protocol's model metadata.

        Raises:
            ServingError: They are not that.
        """
        try:
            inputs, outputs = (
                [str(tensor["name"]) for tensor in metadata[kind]] for kind in ("inputs", "outputs")
            )
        except (LookupError, TypeError) as error:
            raise ServingError(
                "the answer is no model metadata of the Open Inference Protocol; look at the "
                "address and the model's name"
            ) from error
        modules = [name.rpartition("h_n")[0] for name in outputs if _last(name) == "h_n"]
        states = {module + kind for module in modules for kind in CARRIED.values()}
        return cls(
            tuple(inputs),
            tuple(name for name in outputs if name not in states),
            tuple(name for name in outputs if name in states),
            tuple(module.removesuffix(".") for module in modules),
        )

    @property
    def optional(self) -> frozenset[str]:
        """Names of inputs for states and lengths."""
        kinds = (*CARRIED, "lengths")
        return frozenset(_value(module, kind) for module in self.modules for kind in kinds)

    def feeds(
        self, inputs: tuple[Array, ...], state: States | None, lengths: Lengths | None
    ) -> dict[str, Array]:
        """Return the arguments of a call as arrays by input name.

        Raises:
            InputError: Their number is wrong, or the model does not take states or lengths.
        """
        # A model may pass its BNLSTM lengths of its own: then `lengths` is one of its own inputs.
        names, rest = self.inputs[: len(inputs)], self.inputs[len(inputs) :]
        if len(names) < len(inputs) or not self.optional.issuperset(rest):
            own = [name for name in self.inputs if name not in self.optional]
            raise InputError(f"{len(inputs)} inputs given; this model takes {own}")
        feeds = dict(zip(names, inputs, strict=True))
        for module, given in self._by_module(state, "state").items():
            if given.step is None:
                raise InputError("the state has no step: it is of a model that cannot be continued")
            values = zip(CARRIED, (given.h, given.c, given.step), strict=True)
            feeds |= {_value(module, kind): array for kind, array in values}
        for module, valid in self._by_module(lengths, "lengths").items():
            feeds[_value(module, "lengths")] = valid
        unknown = [name for name in feeds if name not in self.inputs]
        if unknown:
            raise InputError(
                f"the model has no input {unknown[0]!r}: it passes that to its BNLSTM itself, or "
                "cannot continue streams; pass whole sequences"
            )
        return feeds

    def output(self, results: Mapping[str, Array]) -> Any:  # noqa: ANN401
        """Return the model's own output, an array or a tuple, out of arrays by output name."""
        output = tuple(results[name] for name in self.outputs)
        return output[0] if len(output) == 1 else output

    def state(self, results: Mapping[str, Array]) -> Any:  # noqa: ANN401
        """Return the State, or that of each BNLSTM by module path, out of arrays by output name."""
        states = {}
        for module in self.modules:
            arrays: list[Any] = [results.get(_value(module, kind)) for kind in CARRIED.values()]
            states[module] = State(*arrays)
        return states.get("", states)

    def _by_module(self, given: Any, what: str) -> Mapping[str, Any]:  # noqa: ANN401
        if given is None:
            return {}
        by_module = given if isinstance(given, Mapping) else {"": given}
        unknown = sorted(by_module.keys() - set(self.modules))
        if unknown:
            raise InputError(
                f"{what} is given for {unknown}; the model's BNLSTM are {sorted(self.modules)}, "
                f"pass a dict with {what} for each"
            )
        return by_module


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _value(module: str, kind: str) -> str:
    """Return the name of a value of a BNLSTM, as exported files have it."""
    return f"{module}.{kind}" if module else kind
