"""The inputs and outputs of an exported graph."""

import inspect
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnlstm_deploy.errors import ExportError
from bnlstm_deploy.metadata import NO_LENGTH, RecurrentLayers
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.signature import BATCH, TIME

DynamicShapes = Sequence[Mapping[int, str]]
"""For each input, the names of its dynamic axes."""


class GraphInput(NamedTuple):
    """An input of the graph."""

    name: str
    example: Tensor
    axes: Mapping[int, str]
    """Names of the dynamic axes."""
    default: NDArray[np.generic] | None = None
    """What the input is when left out; None if it must be given."""


def example_inputs(model: nn.Module, time: int = 2) -> tuple[Tensor]:
    """Return an input for a BNLSTM or a BNLSTMModel, of two streams and `time` timesteps.

    Raises:
        ExportError: Another model.
    """
    rnn = model.rnn if isinstance(model, BNLSTMModel) else model
    if not isinstance(rnn, BNLSTM):
        raise ExportError(
            f"a {type(model).__name__} needs example inputs: export(model, path, (x,)), with a "
            "batch and a time of at least 2"
        )
    leading = (2, time) if rnn.batch_first else (time, 2)
    return (torch.zeros(*leading, rnn.input_size),)


def own_inputs(
    model: nn.Module,
    examples: Sequence[Tensor],
    names: Sequence[str] | None,
    shapes: DynamicShapes | None,
) -> list[GraphInput]:
    """Describe the inputs that `model` has itself.

    Args:
        model: Any module that holds BNLSTM layers.
        examples: Its arguments.
        names: Their names; by default those of its forward's parameters.
        shapes: Their dynamic axes; see `export`.

    Raises:
        ExportError: The numbers of inputs, names and shapes differ.
    """
    if names is None:
        parameters = list(inspect.signature(model.forward).parameters.values())
        names = [parameter.name for parameter in parameters[: len(examples)]]
    if shapes is None:
        first = next(m for m in model.modules() if isinstance(m, BNLSTM))
        leading = (BATCH, TIME) if first.batch_first else (TIME, BATCH)
        shapes = [
            dict(enumerate(leading)) if example.ndim > 1 else dict(enumerate([BATCH]))
            for example in examples
        ]
    if not len(examples) == len(names) == len(shapes):
        raise ExportError(
            f"{len(examples)} inputs, {len(names)} input names and {len(shapes)} dynamic shapes; "
            "pass one name and one shape for each input"
        )
    return [GraphInput(*fields) for fields in zip(names, examples, shapes, strict=True)]


def state_input(name: str, left: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> GraphInput:
    """Describe an input for the state of recurrent layers.

    Its batch axis has a name of its own: left out, it is 1 whatever the batch is, and ONNX Runtime
    takes axes of one name for equal when it plans memory.

    Args:
        name: Its name in the graph.
        left: The states that the layers left, by the names that the graph has.
        initial: The states (num_layers * num_directions, 1, H) that they start from, likewise.
    """
    prefix, dot, kind = name.rpartition(".")
    h = left[f"{prefix}{dot}h_n"]
    if kind in ("initial_h", "initial_c"):
        default = initial[name].numpy()
        return GraphInput(name, torch.zeros_like(h), {1: f"{name}_batch"}, default)
    default = np.array([NO_LENGTH if kind == "lengths" else 0])
    example = torch.zeros(h.shape[1], dtype=torch.int64)
    return GraphInput(name, example, {0: f"{name}_batch"}, default)


def result_names(
    number: int,
    names: Sequence[str] | None,
    layers: Sequence[RecurrentLayers],
    accepts: Sequence[str],
) -> list[str]:
    """Return the names of the graph's outputs, in order.

    Args:
        number: Of the model's own outputs.
        names: Theirs; by default `output`, or `output_0`, ....
        layers: The model's recurrent layers, which add their states.
        accepts: The state inputs that the graph has.

    Raises:
        ExportError: Another number of names than of outputs.
    """
    if names is None:
        names = ["output"] if number == 1 else [f"output_{i}" for i in range(number)]
    if len(names) != number:
        raise ExportError(
            f"{len(names)} output names for {number} outputs (final states have names of their own)"
        )
    results = list(names)
    for entry in layers:
        results += [entry.value_name("h_n"), entry.value_name("c_n")]
        if entry.value_name("start_step") in accepts:
            results.append(entry.value_name("next_step"))
    return results


def with_fixed_time(value: GraphInput, length: int) -> GraphInput:
    """Fix the time axes of an input.

    Raises:
        ExportError: The example has another T.
    """
    for axis, dimension in value.axes.items():
        if dimension == TIME and value.example.shape[axis] != length:
            raise ExportError(
                f"axis {axis} ({TIME}) of {value.name!r} has size {value.example.shape[axis]} in "
                f"the example, and length is {length}; pass an example of that length. If this is "
                "no time axis, say so by dynamic_shapes"
            )
    axes = {axis: dimension for axis, dimension in value.axes.items() if dimension != TIME}
    return value._replace(axes=axes)
