"""replace(): a third party's BN-LSTM inside a model becomes one of ours, in place."""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bnlstm_deploy.checkpoint.ambiguities import find_fit
from bnlstm_deploy.checkpoint.construct import build
from bnlstm_deploy.checkpoint.layout import Forward, Layout
from bnlstm_deploy.checkpoint.loading import recognize
from bnlstm_deploy.checkpoint.match import Match
from bnlstm_deploy.checkpoint.parse import find_layout
from bnlstm_deploy.checkpoint.recorded import Recording, compare
from bnlstm_deploy.errors import InputError, LayoutError
from bnlstm_deploy.nn import BNLSTM

CHECKED_TIME, CHECKED_BATCH = 12, 3


class Replacement(nn.Module):
    """A BNLSTM that is called as the module whose place it took.

    Args:
        rnn: The BNLSTM.
        convention: How the other module was called, and how its output was laid out.
    """

    def __init__(self, rnn: BNLSTM, convention: Forward) -> None:
        super().__init__()
        self.rnn = rnn
        self.convention = convention

    def forward(self, *args: object, **kwargs: object) -> Any:  # noqa: ANN401
        """Call the BNLSTM, and return what the other module did: the output, with states or not.

        Raises:
            InputError: An argument that the other module did not have.
        """
        names = self.convention.arguments
        given = dict(zip(names, args, strict=False)) | kwargs
        if len(args) > len(names) or given.keys() - names.keys():
            raise InputError(
                f"called with {len(args)} positional arguments and {sorted(kwargs)}; the module "
                f"that was replaced takes {list(names)}"
            )
        ours = {names[name]: value for name, value in given.items()}
        output, (h, c) = self.rnn(ours["input"], ours.get("state"), lengths=ours.get("lengths"))
        if self.rnn.batch_first:
            output = output.transpose(0, 1)
        lengths = ours.get("lengths")
        if self.convention.padding == "hold" and isinstance(lengths, Tensor):
            time = torch.arange(len(output), device=output.device)
            output = torch.where((time[:, None] < lengths)[..., None], output, h[-1])
        if self.rnn.batch_first and self.convention.output == "as_input":
            output = output.transpose(0, 1)
        results: dict[str, Any] = {
            "output, (h, c)": (output, (h, c)),
            "output, h, c": (output, h, c),
            "output": output,
        }
        return results[self.convention.returns]


def replace(
    model: nn.Module,
    layouts: Mapping[type[nn.Module], str | Path | Layout],
    *,
    check: bool = True,
) -> dict[str, BNLSTM]:
    """Swap a third party's BN-LSTM modules in a model for ours, in place.

    The rest of the model goes on as it is, and `export` exports it whole. Each module is run in
    float64 on random sequences against the one that takes its place.

    Args:
        model: The model that holds them.
        layouts: For each class of modules its layout: one with a [forward] table, the name of a
            shipped one, or a `.toml` file.
        check: Whether to run the modules that are replaced.

    Returns:
        The BNLSTM that were put in, by the path of the module that each took the place of.

    Raises:
        LayoutError: A layout does not match, has no [forward] table, or gives other outputs; the
            latter names the reading of the arrays that gives the same, if one is found.
        InputError: The model holds no such module, or is one itself.
    """
    if not layouts or not all(isinstance(kind, type) for kind in layouts):
        raise InputError(
            f"layouts is {dict(layouts)!r}; pass the layout of each class of modules, by the class"
        )
    found = {
        path: (module, layout)
        for path, module in model.named_modules()
        for kind, layout in layouts.items()
        if isinstance(module, kind)
    }
    if not found or "" in found:
        what = "is" if found else "holds no"
        raise InputError(
            f"the {type(model).__name__} {what} {' or '.join(kind.__name__ for kind in layouts)}; "
            "pass a model that holds one (import_checkpoint reads the state dict of one alone)"
        )
    swapped: dict[str, Replacement] = {}
    for path, (module, chosen) in found.items():
        layout = chosen if isinstance(chosen, Layout) else find_layout(chosen)
        swapped[path] = _replacement(path, module, layout, check=check)
    for path, replacement in swapped.items():
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, replacement)
    return {path: replacement.rnn for path, replacement in swapped.items()}


def _replacement(path: str, module: nn.Module, layout: Layout, *, check: bool) -> Replacement:
    convention = layout.forward
    if "input" not in convention.arguments.values():
        raise LayoutError(
            f"the layout {layout.name} does not say how its module is called; add a table "
            '[forward] with arguments = { x = "input", ... }'
        )
    tensors = dict(module.state_dict())
    match = recognize(tensors, layout, prefix="")
    batch_first = convention.batch_first
    if isinstance(batch_first, str):
        batch_first = bool(getattr(module, batch_first))
    replacement = Replacement(build(match, tensors, batch_first=batch_first), convention)
    if check:
        _check(path, module, replacement, match)
    dtype = next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
    return replacement.to(dtype).train(module.training)


def _check(path: str, module: nn.Module, replacement: Replacement, match: Match) -> None:
    """Compare the outputs of a module with those of its replacement, both in float64."""
    rnn, convention = replacement.rnn, replacement.convention
    shape = (CHECKED_TIME, CHECKED_BATCH, rnn.input_size)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), _double_by_default():
            result = (
                copy.deepcopy(module)
                .cpu()
                .double()
                .eval()(x.transpose(0, 1) if rnn.batch_first else x)
            )
            output, *values = _parts(result, convention)
    except Exception as error:  # whatever a third party's code raises
        raise LayoutError(
            f"{path}, a {type(module).__name__}, cannot be run for comparison: {error!r}. Pass "
            "check=False to replace it unseen"
        ) from error
    if rnn.batch_first and convention.output == "as_input":
        output = output.transpose(0, 1)
    recording = Recording(x.numpy(), *(np.asarray(value) for value in (output, *values)))
    agreement = compare(rnn, recording, "random sequences")
    if agreement.holds:
        return
    fit = find_fit(match, dict(module.state_dict()), recording)
    hint = "no other reading that is known of does"
    if fit is not None:
        hint = f"it does with {' and '.join(fit.reading.changes)}: say so in a layout of your own"
    raise LayoutError(
        f"{path}, a {type(module).__name__}, does not compute what the layout "
        f"{match.layout.name} says ({agreement}); {hint}"
    )


def _parts(result: Any, convention: Forward) -> tuple[Tensor, ...]:  # noqa: ANN401
    """Return the output and the final states of a module.

    Raises:
        ValueError: It returns something else.
    """
    if convention.returns == "output":
        if not isinstance(result, Tensor):
            raise ValueError(f"it returns a {type(result).__name__}, not one tensor")
        return (result,)
    if convention.returns == "output, h, c":
        output, h, c = result
    else:
        output, (h, c) = result
    return output, h, c


@contextlib.contextmanager
def _double_by_default() -> Iterator[None]:
    """Let the module create its initial states in float64."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
