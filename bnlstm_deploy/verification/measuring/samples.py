"""Inputs for models of the user's own, made after an example."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.verification.measuring.cases import Sample
from bnlstm_deploy.verification.measuring.lengths import find_lengths


def sample_like(model: nn.Module, examples: Sequence[Tensor]) -> Sample:
    """Return a sampler of inputs like `examples`, for `verify(..., sample=...)`.

    Floating point inputs are normal with the mean and standard deviation of the example; integers,
    such as tokens, are drawn from those in the example, so that none is out of range. What the
    model passes to its BNLSTM as `lengths` is drawn from 0 to T.

    Args:
        model: A model that holds BNLSTM layers, which say whether the batch comes first.
        examples: Arguments of its forward; their first two axes are batch and time, or time and
            batch, and the only axis of vectors is the batch.
    """
    first = next(module for module in model.modules() if isinstance(module, BNLSTM))
    lengths = find_lengths(model, examples)

    def draw(generator: np.random.Generator, example: Tensor, batch: int, time: int) -> Tensor:
        leading = (batch, time) if first.batch_first else (time, batch)
        shape = (*leading[: example.ndim], *example.shape[2:]) if example.ndim > 1 else (batch,)
        values = example.detach().cpu().numpy()
        if values.dtype.kind != "f":
            return torch.from_numpy(generator.choice(values.ravel(), shape))
        array = generator.normal(values.mean(), values.std(), shape)
        return torch.from_numpy(array.astype(np.float32))

    def sample(generator: np.random.Generator, batch: int, time: int) -> list[Tensor]:
        return [
            torch.from_numpy(generator.integers(0, time + 1, batch)).to(example.dtype)
            if number in lengths
            else draw(generator, example, batch, time)
            for number, example in enumerate(examples)
        ]

    return sample
