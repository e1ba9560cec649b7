"""From a training model to its folded arrays."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.folding.affine import Affine, affine, extend, identity
from bnlstm_deploy.folding.folded import FoldedDirection, FoldedLSTM

if TYPE_CHECKING:
    from torch import Tensor

    from bnlstm_deploy.nn import BNLSTM, StepwiseBatchNorm


def fold(module: "BNLSTM") -> FoldedLSTM:
    """Fold the population statistics of a BN-LSTM into affine maps, in float64.

    Every timestep has a row of its own: see `merge`. Nothing is rounded: call `astype` on the
    result once, at the end.

    Raises:
        FoldError: Statistics that are negative or not finite, weights that are not finite.
    """
    layers: list[list[FoldedDirection]] = [[] for _ in range(module.num_layers)]
    for layer, suffix in module.directions():
        layers[layer].append(_fold_direction(module, suffix))
    return FoldedLSTM(tuple(tuple(layer) for layer in layers))


def _fold_direction(module: "BNLSTM", suffix: str) -> FoldedDirection:
    def parameter(name: str) -> NDArray[np.float64]:
        return _array(getattr(module, name + suffix))

    gates = 4 * module.hidden_size
    norms = module.norms(suffix)
    input_map = _affine(norms.input, gates)
    hidden_map = _affine(norms.hidden, gates)
    cell_map = _affine(norms.cell, module.hidden_size)
    steps = max(len(m.scale) for m in (input_map, hidden_map, cell_map))
    bias = extend(input_map.shift, steps) + extend(hidden_map.shift, steps)
    if module.bias:
        bias = bias + parameter("bias_ih") + parameter("bias_hh")
    return FoldedDirection(
        weight_ih=parameter("weight_ih"),
        weight_hh=parameter("weight_hh"),
        input_scale=extend(input_map.scale, steps),
        hidden_scale=extend(hidden_map.scale, steps),
        bias=bias,
        cell_scale=extend(cell_map.scale, steps),
        cell_shift=extend(cell_map.shift, steps),
        rows=np.arange(steps),
    )


def _affine(norm: "StepwiseBatchNorm | None", features: int) -> Affine:
    if norm is None:
        return identity(features)
    return affine(
        _array(norm.running_mean),
        _array(norm.running_var),
        norm.eps,
        gamma=_array(norm.weight),
        beta=None if norm.bias is None else _array(norm.bias),
    )


def _array(tensor: "Tensor") -> NDArray[np.float64]:
    array: NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return array
