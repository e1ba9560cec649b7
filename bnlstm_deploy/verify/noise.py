"""How far the activation functions of a runtime may take a model from the truth."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ACTIVATION_ERROR = 3e-7
"""Absolute error of float32 sigmoid and tanh kernels that a runtime is granted.

ONNX Runtime's on CPU, rational approximations, reach 1.7e-7 and 3.1e-7; torch's 0.9e-7 and 0.3e-7.
"""

ACTIVATIONS = (torch.ops.aten.sigmoid.default, torch.ops.aten.tanh.default)


class NoisyActivations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, every result of sigmoid and tanh is off by `ACTIVATION_ERROR`.

    Kernels of 3e-7 are honest, and in most models such an error vanishes among others. Where a
    normalization has a very small variance its scale is in the hundreds and amplifies it, and a
    training model whose activations happen to saturate, at exactly 0 and 1, does not show that.
    The sign is random for each feature and the same at all timesteps, since the error of a kernel
    is systematic and adds up.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = torch.Generator().manual_seed(seed)
        self.offsets: dict[tuple[object, int], Tensor] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call `func`, and move its result if it is an activation."""
        del types
        result = func(*args, **(kwargs or {}))
        if func not in ACTIVATIONS:
            return result
        key = (func, result.shape[-1])
        if key not in self.offsets:
            signs = torch.randint(0, 2, (result.shape[-1],), generator=self.generator) * 2 - 1
            self.offsets[key] = ACTIVATION_ERROR * signs.to(result.dtype)
        return result + self.offsets[key]
