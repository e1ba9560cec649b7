"""Safe readers: tensors from a file, never code."""

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from bnlstm_deploy.errors import CheckpointError, InputError
from bnlstm_deploy.npz import check_archive, read_npz

SAFETENSORS = (".safetensors",)
TORCH = (".pt", ".pth", ".bin", ".ckpt", ".tar")
NUMPY = (".npz",)

PREFERRED = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Where containers with several dicts of tensors keep the model's, most telling first."""


FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""The dtypes of weights and statistics."""


class Container(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    nested: str
    """Path of the dict that they were in, such as `model`; empty at the top."""
    others: tuple[str, ...] = ()
    """Paths of other dicts with the same keys, such as `ema`."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, on the CPU; see `read_container`.

    Raises:
        CheckpointError: As `read_container`, or the file holds several versions of them.
    """
    found = read_container(path)
    if found.others:
        raise CheckpointError(
            f"{path} holds the same keys under {', '.join((found.nested, *found.others))}; save "
            "the state dict that is meant alone"
        )
    return found.tensors


def read_floats(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor of a checkpoint in float64.

    Raises:
        CheckpointError: As `check_floats`.
    """
    check_floats(name, tensor)
    return tensor.detach().double()


def check_floats(name: str, tensor: Tensor) -> None:
    """Check that a tensor of a checkpoint is a plain array of floating point numbers.

    Args:
        name: Its key.
        tensor: The tensor.

    Raises:
        CheckpointError: It is of other numbers, or no plain array that the file holds.
    """
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        state = "a meta tensor" if tensor.is_meta else f"{kind}, {tensor.layout}"
        raise CheckpointError(
            f"{name} is no plain tensor ({state}); save it dense, with its values"
        )
    if tensor.dtype not in FLOATS:
        raise CheckpointError(
            f"{name} is {kind}; weights and statistics are float64, float32, float16 or bfloat16. "
            "Convert it in the code that it is from"
        )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{name} is an expanded tensor of shape {tuple(tensor.shape)}, more than the file "
            "holds; save it .contiguous()"
        )


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
    except Exception as error:  # the library raises whatever a damaged header leads to
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({_first_line(error)}); it is damaged or "
            "truncated. Copy it again"
        ) from error


def _read_arrays(path: Path) -> dict[str, Tensor]:
    try:
        arrays = read_npz(path)
        return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
    except (InputError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{_first_line(error)}; save plain arrays of numbers with numpy.savez"
        ) from error


def _read_torch(path: Path) -> object:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_archive(archive)
                damaged = archive.testzip()  # torch itself does not look at the checksums
            if damaged is not None:
                raise ValueError(f"{damaged} has another checksum")
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
    except Exception as error:  # the unpickler raises whatever a damaged file leads to
        raise CheckpointError(
            f"{path} cannot be read as a torch state dict ({_first_line(error)}); it is damaged or "
            "truncated. Copy it again"
        ) from error


def _find_tensors(path: Path, content: object) -> Container:
    """Return the one dict of tensors in a container, however deep it is nested."""
    found = dict(_dicts_of_tensors(content))
    chosen = list(found)
    if len(found) > 1:
        named = [name for key in PREFERRED for name in found if name.split(".")[-1] == key]
        chosen = [name for name in found if not name] or named[:1]
    if len(chosen) != 1:
        what = f"dicts of tensors under {sorted(found)}" if found else "no dict of tensors"
        raise CheckpointError(
            f"{path} holds a {type(content).__name__} with {what}; save model.state_dict() alone"
        )
    (name,) = chosen
    alike = [
        other for other in found if other != name and found[other].keys() == found[name].keys()
    ]
    return Container(found[name], name, tuple(alike))


def _dicts_of_tensors(content: object) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every dict that holds tensors by name, with its path; an optimizer's state is none."""
    left, seen = [("", content)], set()
    while left:
        where, part = left.pop()
        if not isinstance(part, Mapping) or id(part) in seen or not all(map(_is_text, part)):
            continue
        seen.add(id(part))  # one may hold itself
        tensors = {key: value for key, value in part.items() if isinstance(value, Tensor)}
        if tensors:
            yield where, tensors
        inner = [(f"{where}.{key}".strip("."), value) for key, value in part.items()]
        left += [entry for entry in reversed(inner) if "optim" not in entry[0].lower()]


def _is_text(key: object) -> bool:
    return isinstance(key, str)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
