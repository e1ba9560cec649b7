"""Models at the command line: from checkpoints or factories, with what was assumed printed."""

import importlib
import inspect
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from bnlstm_deploy.cli.options import OwnModel, Reading
from bnlstm_deploy.download import is_hub_id, local
from bnlstm_deploy.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from bnlstm_deploy.checkpoint import Imported


WRAPPERS = ("module.", "_orig_mod.")
"""What torch's DataParallel and compile put before every key."""


class Loaded(NamedTuple):
    """A model, and how it came about."""

    model: "nn.Module"
    imported: "Imported | None" = None
    """The import, if other code trained it."""
    examples: "tuple[Tensor, ...] | None" = None
    """Example arguments of a model of the user's own."""


def load(
    console: Console,
    checkpoint: Path | None,
    reading: Reading,
    own: OwnModel = OwnModel(),
) -> Loaded:
    """Load a checkpoint; print which layout matched, and what no key confirms."""
    from bnlstm_deploy import checkpoint as room
    from bnlstm_deploy.checkpoint.loading import is_native

    if own.factory is not None:
        with console.status("Building the model"):
            return _whole_model(own.factory, checkpoint, reading, own.inputs)
    if checkpoint is None:
        raise InputError("neither CHECKPOINT nor --model is given; pass one of them")
    if own.inputs is not None:
        raise InputError("--inputs belongs to --model; a checkpoint tells its input's shape")
    if is_hub_id(checkpoint):
        with console.status(f"Getting {checkpoint}"):
            checkpoint = local(checkpoint)
    options: dict[str, Any] = vars(reading) | {"batch_first": bool(reading.batch_first)}
    with console.status("Loading the checkpoint"):
        if is_native(checkpoint, reading.config, reading.layout):
            told = {"batch_first": reading.batch_first is not None}  # its config.json says that
            return Loaded(room.load(checkpoint, **options | told))
        del options["config"]
        imported = room.import_checkpoint(checkpoint, **options)
    for note in imported.notes:
        console.print(note)
    console.print(
        f"assumed, since no key tells: {'; '.join(imported.assumptions)}",
        style="yellow",
    )
    return Loaded(imported.model, imported)


def _whole_model(
    factory: str, checkpoint: Path | None, reading: Reading, inputs: Path | None
) -> Loaded:
    """Build the user's own model, and load its state dict if one is given."""
    import torch

    from bnlstm_deploy.checkpoint import read_tensors

    misplaced = [
        f"--{name.replace('_', '-')}" for name, value in vars(reading).items() if value is not None
    ]
    if misplaced:
        raise InputError(f"{', '.join(misplaced)} cannot be used with --model, which builds all")
    model = _call(factory)
    if checkpoint is not None:
        try:
            model.load_state_dict(_fitting(read_tensors(checkpoint), model.state_dict()))
        except RuntimeError as error:
            raise CheckpointError(f"{checkpoint} does not fit {factory}: {error}") from error
    if inputs is None:
        return Loaded(model.eval())
    arrays = read_arguments(model, inputs)
    return Loaded(model.eval(), examples=tuple(map(torch.from_numpy, arrays.values())))


def read_arguments(model: "nn.Module", path: Path) -> "dict[str, NDArray[Any]]":
    """Read the arguments of a model of one's own, in their order.

    Raises:
        InputError: The file cannot be read, or its arrays are no arguments of the model.
    """
    from bnlstm_deploy.npz import read_npz

    arrays = read_npz(path)
    parameters = list(inspect.signature(model.forward).parameters)
    names = [name for name in parameters if name in arrays]
    if not names or set(arrays) - set(names):
        raise InputError(
            f"{path} holds {sorted(arrays)}; name the arrays after the arguments of "
            f"{type(model).__name__}.forward: {parameters}"
        )
    return {name: arrays[name] for name in names}


def _fitting(tensors: "dict[str, Tensor]", expected: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Return a state dict without what wraps whole models, if the model itself has no such names.

    Raises:
        CheckpointError: A tensor is of other numbers than the model's: torch would convert it.
    """
    from bnlstm_deploy.checkpoint.read import check_floats

    while not tensors.keys() & expected.keys():
        wrapper = next((w for w in WRAPPERS if all(n.startswith(w) for n in tensors)), None)
        if wrapper is None:
            break
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    for name in tensors.keys() & expected.keys():
        given, own = tensors[name], expected[name]
        if own.is_floating_point():
            check_floats(name, given)
        elif given.dtype != own.dtype:
            kind, wanted = (str(t.dtype).removeprefix("torch.") for t in (given, own))
            raise CheckpointError(f"{name} is {kind}; the model has {wanted}. Save it as that")
    return tensors


def _call(spec: str) -> "nn.Module":
    """Call `package.module:factory` with the working folder on the path, as for `python -m`."""
    from torch import nn

    name, colon, attribute = spec.partition(":")
    if not (name and colon and attribute):
        raise InputError(f"--model is {spec!r}; pass package.module:factory")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        model = getattr(importlib.import_module(name), attribute)()
    except Exception as error:  # whatever the user's own code raises
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"--model {spec}: {type(error).__name__}: {error} ({where.filename}, line "
            f"{where.lineno}); pass a function that is called without arguments"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"--model {spec} returns a {type(model).__name__}; it must return a torch.nn.Module"
        )
    return model
