"""Models at the command line: from checkpoints or factories, with what was assumed printed."""

import importlib
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from bnlstm_deploy.cli.options import HeadPooling
from bnlstm_deploy.errors import CheckpointError, InputError
from bnlstm_deploy.npz import read_npz

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bnlstm_deploy.checkpoint import Imported
    from bnlstm_deploy.nn import Pooling


class Source(NamedTuple):
    """Where a model comes from, as the options of several commands say it."""

    checkpoint: Path | None
    config: Path | None = None
    layout: str | None = None
    prefix: str | None = None
    head: HeadPooling | None = None
    batch_first: bool = False
    factory: str | None = None
    inputs: Path | None = None


class Loaded(NamedTuple):
    """A model, and how it came about."""

    model: "nn.Module"
    imported: "Imported | None" = None
    """The import, if other code trained it."""
    examples: "tuple[Tensor, ...] | None" = None
    """Example arguments of a model of the user's own."""


def load(console: Console, source: Source) -> Loaded:
    """Load a checkpoint; print which layout matched, and what no key confirms."""
    from bnlstm_deploy import checkpoint as room
    from bnlstm_deploy.checkpoint.loading import is_native

    if source.factory is not None:
        with console.status("Building the model"):
            return _whole_model(source.factory, source)
    path, config, layout, prefix, head, batch_first, _, inputs = source
    if path is None:
        raise InputError("neither CHECKPOINT nor --model is given; pass one of them")
    if inputs is not None:
        raise InputError("--inputs belongs to --model; a checkpoint tells its input's shape")
    pooling: Pooling | None = None if head is None else head.value
    with console.status("Loading the checkpoint"):
        if is_native(path, config, layout):
            model = room.load(
                path, config=config, prefix=prefix, head=pooling, batch_first=batch_first
            )
            return Loaded(model)
        imported = room.import_checkpoint(
            path, layout=layout, prefix=prefix, head=pooling, batch_first=batch_first
        )
    for note in imported.notes:
        console.print(note, markup=False, highlight=False)
    console.print(
        f"assumed, since no key tells: {'; '.join(imported.assumptions)}",
        style="yellow",
        markup=False,
        highlight=False,
    )
    return Loaded(imported.model, imported)


def _whole_model(factory: str, source: Source) -> Loaded:
    """Build the user's own model, and load its state dict if one is given."""
    import torch

    from bnlstm_deploy.checkpoint import read_tensors

    given = {
        "--config": source.config,
        "--layout": source.layout,
        "--prefix": source.prefix,
        "--head": source.head,
        "--batch-first": source.batch_first or None,
    }
    misplaced = [option for option, value in given.items() if value is not None]
    if misplaced:
        raise InputError(f"{', '.join(misplaced)} cannot be used with --model, which builds all")
    model = _call(factory)
    if source.checkpoint is not None:
        try:
            model.load_state_dict(read_tensors(source.checkpoint))
        except RuntimeError as error:
            raise CheckpointError(f"{source.checkpoint} does not fit {factory}: {error}") from error
    if source.inputs is None:
        return Loaded(model.eval())
    arrays = read_npz(source.inputs)
    parameters = list(inspect.signature(model.forward).parameters)
    names = [name for name in parameters if name in arrays]
    if not names or set(arrays) - set(names):
        raise InputError(
            f"{source.inputs} holds {sorted(arrays)}; name the arrays after the arguments of "
            f"{type(model).__name__}.forward: {parameters}"
        )
    return Loaded(model.eval(), examples=tuple(torch.from_numpy(arrays[name]) for name in names))


def _call(spec: str) -> "nn.Module":
    """Call `package.module:factory` with the working folder on the path, as for `python -m`."""
    from torch import nn

    name, colon, attribute = spec.partition(":")
    if not (name and colon and attribute):
        raise InputError(f"--model is {spec!r}; pass package.module:factory")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        factory = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"--model {spec}: {error}") from error
    model = factory()
    if not isinstance(model, nn.Module):
        raise InputError(
            f"--model {spec} returns a {type(model).__name__}; it must return a torch.nn.Module"
        )
    return model
