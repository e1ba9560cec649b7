"""Safe readers: tensors from a file, never code."""

import pickle
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from bnlstm_deploy.errors import CheckpointError

SAFETENSORS = (".safetensors",)
TORCH = (".pt", ".pth", ".bin", ".ckpt")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict, on the CPU.

    Args:
        path: A `.safetensors` file, or a state dict that `torch.save` wrote (`.pt`, `.pth`, `.bin`,
            `.ckpt`). The latter is a pickle, read with `weights_only`, which runs no code.

    Raises:
        CheckpointError: The file is missing, damaged, holds code, or is no flat dict of tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is not a file")
    if path.suffix in SAFETENSORS:
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} cannot be read as safetensors ({error}); it is damaged or truncated. "
                "Copy it again"
            ) from error
    if path.suffix not in TORCH:
        raise CheckpointError(
            f"{path} has the suffix {path.suffix!r}; pass one of {', '.join(SAFETENSORS + TORCH)}"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and is not loaded, since loading it would run code. "
            "Where it was trained, re-save the state dict: torch.save(model.state_dict(), "
            f'"{path.name}")'
        ) from error
    except (RuntimeError, OSError, EOFError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a torch state dict ({_first_line(error)}); it is damaged or "
            "truncated. Copy it again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__} and not a flat dict of tensors; save "
            "model.state_dict()"
        )
    return dict(state)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
