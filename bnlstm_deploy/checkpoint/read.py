"""Safe readers: tensors from a file, never code."""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from bnlstm_deploy.errors import CheckpointError, InputError
from bnlstm_deploy.npz import read_npz

SAFETENSORS = (".safetensors",)
TORCH = (".pt", ".pth", ".bin", ".ckpt", ".tar")
NUMPY = (".npz",)

PREFERRED = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Where containers with several dicts of tensors keep the model's, most telling first."""


class Container(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    nested: str
    """Path of the dict that they were in, such as `model`; empty at the top."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, on the CPU; see `read_container`."""
    return read_container(path).tensors


def read_container(path: Path) -> Container:
    """Read the tensors of a checkpoint, on the CPU.

    Args:
        path: A `.safetensors` file; a state dict that `torch.save` wrote (`.pt`, `.pth`, `.bin`,
            `.ckpt`, `.tar`), also nested in other dicts; or arrays that `numpy.savez` wrote
            (`.npz`). The second is a pickle, read with `weights_only`, which runs no code.

    Raises:
        CheckpointError: The file is missing, damaged, holds code, or no dict of tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is not a file")
    if path.suffix in SAFETENSORS:
        return Container(_read_safetensors(path), "")
    if path.suffix in NUMPY:
        return Container(_read_arrays(path), "")
    if path.suffix in TORCH:
        return _find_tensors(path, _read_torch(path))
    raise CheckpointError(
        f"{path} has the suffix {path.suffix!r}; pass one of "
        f"{', '.join(SAFETENSORS + TORCH + NUMPY)}"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({error}); it is damaged or truncated. "
            "Copy it again"
        ) from error


def _read_arrays(path: Path) -> dict[str, Tensor]:
    try:
        arrays = read_npz(path)
        return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
    except (InputError, TypeError) as error:
        raise CheckpointError(
            f"{_first_line(error)}; save plain arrays of numbers with numpy.savez"
        ) from error


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, a whole module perhaps, and is not loaded, since "
            "loading it would run code. Where the code that trained it is at hand and trusted, "
            "re-save it as a state dict:\n"
            "    import torch\n"
            f'    model = torch.load("{path.name}", map_location="cpu", weights_only=False)\n'
            f'    torch.save(model.state_dict(), "state-{path.name}")'
        ) from error
    except (RuntimeError, OSError, EOFError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a torch state dict ({_first_line(error)}); it is damaged or "
            "truncated. Copy it again"
        ) from error


def _find_tensors(path: Path, content: object) -> Container:
    """Return the one dict of tensors in a container, however deep it is nested."""
    found = dict(_dicts_of_tensors(content, ""))
    chosen = list(found)
    if len(found) > 1:
        named = [name for key in PREFERRED for name in found if name.split(".")[-1] == key]
        chosen = [name for name in found if not name] or named[:1]
    if len(chosen) != 1:
        what = f"dicts of tensors under {sorted(found)}" if found else "no dict of tensors"
        raise CheckpointError(
            f"{path} holds a {type(content).__name__} with {what}; save model.state_dict() alone"
        )
    return Container(found[chosen[0]], chosen[0])


def _dicts_of_tensors(content: object, where: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every dict that holds tensors by name, with its path; an optimizer's state is none."""
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield where, tensors
    for key, value in content.items():
        if "optim" not in key.lower():
            yield from _dicts_of_tensors(value, f"{where}.{key}".strip("."))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
