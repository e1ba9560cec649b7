"""The identity of a model's weights."""

import hashlib

import safetensors.torch
from torch import nn


def state_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of a model's state dict serialized as safetensors, in hexadecimal.

    It does not depend on the container that the weights came in, and for a checkpoint folder that
    `save_checkpoint` wrote it is what `sha256sum model.safetensors` prints.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in model.state_dict().items()
    }
    return hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()
