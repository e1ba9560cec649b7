"""The parts that a fold is made of, in numpy, so that mistakes can be made in one of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.fold import Affine, FoldedDirection, affine
from bnlstm_deploy.fold.affine import extend, identity
from bnlstm_deploy.nn import BNLSTM, NormPath, StepwiseBatchNorm

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Norm:
    """One normalization."""

    mean: Array
    """(S, F)."""
    var: Array
    """(S, F)."""
    eps: float
    gamma: Array
    """(F,) or (S, F)."""
    beta: Array | None
    """Of gamma's shape."""

    @classmethod
    def of(cls, norm: StepwiseBatchNorm | None) -> "Norm | None":
        """Take a normalization of the training model; None stays None."""
        if norm is None:
            return None
        beta = None if norm.bias is None else _array(norm.bias)
        mean, var, gamma = map(_array, (norm.running_mean, norm.running_var, norm.weight))
        return cls(mean, var, norm.eps, gamma, beta)

    def affine(self) -> Affine:
        """Return it as an affine map.

        Raises:
            FoldError: `var + eps` is not positive.
        """
        return affine(self.mean, self.var, self.eps, self.gamma, self.beta)


@dataclass(frozen=True, eq=False)
class Parts:
    """One layer and direction before it is folded, in float64."""

    weight_ih: Array
    """(4H, D)."""
    weight_hh: Array
    """(4H, H)."""
    bias_ih: Array
    """(4H,); 0 if the model has none."""
    bias_hh: Array
    """(4H,); likewise."""
    input: Norm | None
    hidden: Norm | None
    cell: Norm | None
    reached: int
    """Timesteps since step 0 that the failing input reaches."""

    @classmethod
    def of(cls, module: BNLSTM, suffix: str, reached: int) -> "Parts":
        """Take one layer and direction of the training model."""
        norms = module.norms(suffix)
        weight_ih, weight_hh = (
            _array(getattr(module, name + suffix)) for name in ("weight_ih", "weight_hh")
        )
        zeros = np.zeros(len(weight_ih))
        bias_ih, bias_hh = (
            _array(getattr(module, name + suffix)) if module.bias else zeros
            for name in ("bias_ih", "bias_hh")
        )
        return cls(
            weight_ih=weight_ih,
            weight_hh=weight_hh,
            bias_ih=bias_ih,
            bias_hh=bias_hh,
            input=Norm.of(norms.input),
            hidden=Norm.of(norms.hidden),
            cell=Norm.of(norms.cell),
            reached=reached,
        )

    @property
    def hidden_size(self) -> int:
        """H."""
        return int(self.weight_hh.shape[1])

    def norm(self, path: NormPath) -> Norm | None:
        """Return the normalization of a path."""
        norm: Norm | None = getattr(self, path)
        return norm

    def fold(self) -> FoldedDirection:
        """Fold the parts, as `bnlstm_deploy.fold.fold` does.

        Raises:
            FoldError: `var + eps` is not positive.
        """
        gates = 4 * self.hidden_size
        maps = {
            path: identity(features) if norm is None else norm.affine()
            for path, norm, features in (
                ("input", self.input, gates),
                ("hidden", self.hidden, gates),
                ("cell", self.cell, self.hidden_size),
            )
        }
        steps = max(len(m.scale) for m in maps.values())
        scale = {path: extend(m.scale, steps) for path, m in maps.items()}
        shift = {path: extend(m.shift, steps) for path, m in maps.items()}
        return FoldedDirection(
            weight_ih=self.weight_ih,
            weight_hh=self.weight_hh,
            input_scale=scale["input"],
            hidden_scale=scale["hidden"],
            bias=shift["input"] + shift["hidden"] + self.bias_ih + self.bias_hh,
            cell_scale=scale["cell"],
            cell_shift=shift["cell"],
            rows=np.arange(steps),
        )


def _array(tensor: Any) -> Array:  # noqa: ANN401
    array: Array = tensor.detach().double().cpu().numpy()
    return array
