"""A model with the state of its recurrent layers on the outside."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bnlstm_deploy.errors import ExportError
from bnlstm_deploy.exporting import op
from bnlstm_deploy.exporting.folded_module import FoldedBNLSTM
from bnlstm_deploy.metadata import CARRIED, RecurrentLayers
from bnlstm_deploy.nn import BNLSTM

PASSED = {"initial_h": "state", "initial_c": "state", "lengths": "lengths", "start_step": "step"}
"""A value that can be lifted, and the argument of `BNLSTM.forward` that it is passed by."""


class Lifted(nn.Module):
    """Wraps a model so that its BNLSTM layers take their state from, and leave it to, the caller.

    A model of one's own calls its BNLSTM with an input and keeps only the output, say; to stream
    through it, the state has to get in and out all the same. `Lifted` puts it in by forward
    pre-hooks and takes it out by forward hooks, for BNLSTM and FoldedBNLSTM alike, in eager mode
    as well as inside `torch.onnx.export`. Arguments that the model passes itself stay as they are.

    Args:
        model: The model. Hooks are registered on its recurrent modules, so pass a copy.
        layers: The model's recurrent layers; see `recurrent_layers`.

    Attributes:
        accepts: Names of the values that the last call could have been given, in order:
            `initial_h`, `initial_c`, `lengths` and `start_step` of each of the layers, without
            those that the model passes itself.
    """

    def __init__(self, model: nn.Module, layers: Iterable[RecurrentLayers]) -> None:
        super().__init__()
        self.model = model
        self.accepts: list[str] = []
        self._given: Mapping[str, Tensor] = {}
        self._left: dict[str, Tensor] = {}
        self._returned: list[Tensor] = []
        self.layers = tuple(layers)
        modules = recurrent_modules(model)
        for entry, module in zip(self.layers, modules.values(), strict=True):
            hooks = _Hooks(self, entry)
            module.register_forward_pre_hook(hooks.put, with_kwargs=True)
            module.register_forward_hook(hooks.take, with_kwargs=True)

    def forward(
        self, inputs: Sequence[Tensor], given: Mapping[str, Tensor]
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Run the model.

        Args:
            inputs: Its positional arguments.
            given: Initial states, lengths and start steps, by the names that the graph has.

        Returns:
            The tensors that the model returns, without final states; and the final states and,
            where a start step was given, the next steps, by the names that the graph has and in
            the order of the layers, whichever the model calls first.

        Raises:
            ExportError: A BNLSTM is called twice, or something else than tensors is returned.
        """
        self._given, self._left, self.accepts, self._returned = given, {}, [], []
        result = self.model(*inputs)
        names = [entry.value_name(n) for entry in self.layers for n in CARRIED.values()]
        left = {name: self._left[name] for name in names if name in self._left}
        states = [id(tensor) for tensor in self._returned]
        return tuple(t for t in _tensors(result) if id(t) not in states), left


class _Hooks:
    """The two hooks of one recurrent module."""

    def __init__(self, lifted: Lifted, layers: RecurrentLayers) -> None:
        self.lifted = lifted
        self.layers = layers

    def put(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Add what is given, where the model passes nothing."""
        assert isinstance(module, BNLSTM | FoldedBNLSTM)
        name = self.layers.value_name
        if name("h_n") in self.lifted._left:
            raise ExportError(
                f"the model calls its BNLSTM {self.layers.name!r} more than once, so it has no one "
                "state to take in and give out; use a module for each call"
            )
        # None and the int 0 are the defaults of `BNLSTM.forward`: nothing is passed
        kwargs = {k: v for k, v in kwargs.items() if isinstance(v, Tensor | tuple) or v}
        free = [v for v, argument in PASSED.items() if argument not in kwargs]
        if len(args) > 1 and args[1] is not None:
            free = [value for value in free if PASSED[value] != "state"]
        if not self.layers.streams:
            free = [value for value in free if value != "start_step"]
        self.lifted.accepts += [name(value) for value in free]
        given = {v: self.lifted._given[name(v)] for v in free if name(v) in self.lifted._given}
        if "initial_h" in given:
            args = args[:1]
            kwargs["state"] = (given["initial_h"], given["initial_c"])
        x = args[0] if args else kwargs["input"]
        for value in ("lengths", "start_step"):
            if value in given:
                kwargs[PASSED[value]] = _of_streams(module, given[value], x)
        return args, kwargs

    def take(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: tuple[Tensor, tuple[Tensor, Tensor]],
    ) -> None:
        """Keep the final state and the next step."""
        assert isinstance(module, BNLSTM | FoldedBNLSTM)
        name = self.layers.value_name
        self.lifted._returned += result[1]
        h, c = module.final if isinstance(module, FoldedBNLSTM) else result[1]
        self.lifted._left |= {name("h_n"): h, name("c_n"): c}
        if name("start_step") in self.lifted._given:
            x = args[0] if args else kwargs["input"]
            self.lifted._left[name("next_step")] = _next_step(
                module, kwargs["step"], kwargs.get("lengths"), x
            )


def recurrent_modules(model: nn.Module) -> dict[str, BNLSTM | FoldedBNLSTM]:
    """Return the BNLSTM and FoldedBNLSTM modules in `model` by path, "" for `model` itself."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BNLSTM | FoldedBNLSTM)
    }


def recurrent_layers(model: nn.Module) -> tuple[RecurrentLayers, ...]:
    """Describe the BNLSTM modules in `model`, in the form that can continue streams.

    Raises:
        ExportError: There is none.
    """
    modules = {name: m for name, m in model.named_modules() if isinstance(m, BNLSTM)}
    if not modules:
        raise ExportError(
            f"the {type(model).__name__} holds no BNLSTM; there is nothing to fold. Pass a model "
            "built with bnlstm_deploy.nn.BNLSTM"
        )
    return tuple(
        RecurrentLayers(
            name=name if len(modules) > 1 else "",
            input_size=module.input_size,
            hidden_size=module.hidden_size,
            num_layers=module.num_layers,
            num_directions=module.num_directions,
            steps=_steps(module),
            normalize=module.normalize,
            streams=module.num_directions == 1,
        )
        for name, module in modules.items()
    )


def _steps(module: BNLSTM) -> int:
    norms = module.norms("_l0")
    return max((norm.max_length for norm in norms if norm is not None), default=1)


def _of_streams(module: BNLSTM | FoldedBNLSTM, counts: Tensor, x: Tensor) -> Tensor:
    """Have a graph for GPUs read an input with a default in one node only, which makes it (N,).

    Where nodes on the CPU and nodes on a GPU read one, ONNX Runtime gives the latter a copy of the
    default, whatever is passed.
    """
    on_device = isinstance(module, FoldedBNLSTM) and module.counts_on_device
    if on_device and torch.onnx.is_in_onnx_export():
        return op.of_streams(counts, x, batch_first=module.batch_first)
    return counts


def _next_step(
    module: BNLSTM | FoldedBNLSTM, step: Tensor, lengths: Tensor | None, x: Tensor
) -> Tensor:
    batch_first = module.batch_first
    if torch.onnx.is_in_onnx_export():
        assert isinstance(module, FoldedBNLSTM)
        on_device = module.counts_on_device
        return op.next_step(step, lengths, x, on_device=on_device, batch_first=batch_first)
    time, batch = x.shape[int(batch_first)], x.shape[1 - int(batch_first)]
    return step + (torch.full((batch,), time) if lengths is None else lengths)


def _tensors(result: object) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, tuple | list):
        return [tensor for item in result for tensor in _tensors(item)]
    if isinstance(result, Mapping):
        return [tensor for item in result.values() for tensor in _tensors(item)]
    if result is None:
        return []
    raise ExportError(
        f"the model returns a {type(result).__name__}; a graph can only return tensors, in tuples, "
        "lists or dicts"
    )
