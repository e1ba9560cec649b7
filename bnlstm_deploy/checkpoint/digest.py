"""The identity of a model's weights."""

import hashlib

import safetensors.torch
import torch
from torch import nn


def state_sha256(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """Return the SHA-256 of a model's state dict serialized as safetensors, in hexadecimal.

    It does not depend on the container that the weights came in, and for a checkpoint folder that
    `save_checkpoint` wrote it is what `sha256sum model.safetensors` prints.

    Args:
        model: The model.
        dtype: In which to take its floating point values; by default the model's own.
    """
    tensors = {
        name: tensor.detach().to("cpu", _dtype_of(tensor, dtype)).contiguous().clone()
        for name, tensor in model.state_dict().items()
    }
    return hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()


def _dtype_of(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
