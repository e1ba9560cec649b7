"""How far a runtime's rounding and activation functions may take a model from the truth."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from bnlstm_deploy.signature import Array
from bnlstm_deploy.verification.measuring.trial import Run, Trial

ACTIVATION_ERROR = 3e-7
"""Absolute error of float32 sigmoid and tanh kernels that a runtime is granted.

ONNX Runtime's on CPU, rational approximations, reach 1.7e-7 and 3.1e-7; torch's 0.9e-7 and 0.3e-7.
"""

DRAWS = 32
"""Draws of each feature's error, times the features."""

ACTIVATIONS = {torch.sigmoid: "sigmoid", torch.tanh: "tanh"} | {
    Tensor.sigmoid: "sigmoid",
    Tensor.tanh: "tanh",
}


class NoisyActivations(TorchFunctionMode):
    """While active, every result of sigmoid and tanh is off by `ACTIVATION_ERROR`.

    Kernels of 3e-7 are honest, and in most models such an error vanishes among others. Where a
    normalization has a very small variance its scale is in the hundreds and amplifies it, and a
    training model whose activations happen to saturate, at exactly 0 and 1, does not show that.
    The sign is random for each stream and feature. The error of a kernel is systematic and adds up
    over time, so the signs are the same at all timesteps; but gates that are off by the same may
    cancel each other, hence the other kind, which draws them anew at each call.

    Args:
        seed: Of the signs.
        systematic: Whether they are the same at all timesteps.
    """

    def __init__(self, seed: int, *, systematic: bool) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.systematic = systematic
        self.offsets: dict[tuple[str, torch.Size], Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call `func`, and move its result if it is an activation."""
        del types
        result = func(*args, **(kwargs or {}))
        if func not in ACTIVATIONS:
            return result
        if not self.systematic:
            return result + self._offsets(result.shape, result.dtype)
        key = (ACTIVATIONS[func], result.shape)
        if key not in self.offsets:
            self.offsets[key] = self._offsets(result.shape, result.dtype)
        return result + self.offsets[key]

    def _offsets(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        signs = torch.randint(0, 2, tuple(shape), generator=self.generator) * 2 - 1
        return ACTIVATION_ERROR * signs.to(dtype)


PRODUCTS = (F.linear, torch.matmul, Tensor.matmul)


class RoundedProducts(TorchFunctionMode):
    """While active, the operands and results of matrix products are rounded to a dtype.

    The training model with the rounding of a float16 or bfloat16 graph, and in float32 otherwise.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call `func`, with roundings if it is a product."""
        del types
        if func not in PRODUCTS:
            return func(*args, **(kwargs or {}))
        return self._rounded(func(*(self._rounded(a) for a in args), **(kwargs or {})))

    def _rounded(self, value: Any) -> Any:  # noqa: ANN401
        return value.to(self.dtype).to(value.dtype) if isinstance(value, Tensor) else value


def noisy_runs(run: Run, trial: Trial, seed: int) -> list[dict[str, Array]]:
    """Run a trial with inexact activation functions, of both kinds and several draws of the signs.

    At a single value the errors of several functions may cancel by luck. The draws are run at once,
    as further streams; the fewer features there are, the more.

    Args:
        run: Runs the training model in float64.
        trial: The case and its inputs.
        seed: Of the signs.

    Returns:
        What each draw gives, by output name.
    """
    graph = trial.graph
    axes, own = graph.signature.batch_axes, {value.name for value in graph.outputs}
    features = min(entry.hidden_size for entry in graph.metadata.layers)
    every = all(value.name in axes for value in graph.outputs)
    draws = max(1, DRAWS // features) if every else 1
    wide = trial.repeated(draws)
    found: list[dict[str, Array]] = []
    for systematic in (True, False):
        with NoisyActivations(seed, systematic=systematic):
            noisy = wide.run(run)
        parts = {
            # the outputs of chunks that were given as such are stacked
            name: np.split(array, draws, axes.get(name, 0) + (len(wide.feeds) > 1 and name in own))
            for name, array in noisy.items()
        }
        found += [{name: cut[draw] for name, cut in parts.items()} for draw in range(draws)]
    return found


def sensitivity(
    noisy: Sequence[Mapping[str, Array]], expected: Mapping[str, Array]
) -> dict[str, NDArray[np.float64]]:
    """Return how far inexact activation functions move each value of a trial.

    For the features of a stream and timestep it is one number, the largest of several draws.

    Args:
        noisy: What `noisy_runs` gave.
        expected: What the training model gives with exact functions, by name.
    """
    moved = {name: np.zeros(value.shape) for name, value in expected.items()}
    for results in noisy:
        for name, value in expected.items():
            error = np.abs(results[name].astype(np.float64) - value.astype(np.float64))
            moved[name] = np.maximum(moved[name], error.max(axis=-1, keepdims=True, initial=0))
    return moved
