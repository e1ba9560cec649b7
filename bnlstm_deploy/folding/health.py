"""Population statistics that look wrong."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.folding.affine import affine

if TYPE_CHECKING:
    from bnlstm_deploy.nn import BNLSTM, StepwiseBatchNorm

DECAYED = 1e-3
"""A variance below this part of eps has decayed: eps alone decides the scale."""

HUGE_SCALE = 100.0
"""Folded scales of trained models are mostly below 10; 1 / sqrt(1e-5) is 316."""


def warnings(module: "BNLSTM") -> list[str]:
    """Return what looks wrong with a model's population statistics, in words; mostly nothing.

    Step 0 is left out, except of its unvisited rows: with h_0 = 0 the hidden product is 0 there for
    every stream, so a variance of 0 is right, and its scale has nothing to multiply.

    Raises:
        FoldError: Statistics that are negative or not finite.
    """
    found: list[str] = []
    for _, suffix in module.directions():
        for path, norm in module.norms(suffix)._asdict().items():
            if norm is not None:
                found += [f"{path}_norm{suffix}: {text}" for text in _of_norm(norm)]
        hidden = module.norms(suffix).hidden
        if hidden is not None and module.h_0 is not None and _decayed(hidden)[0].any():
            found.append(
                f"hidden_norm{suffix}: the initial state is learned, but some variances at step 0 "
                "are 0, as if it had been 0 in training; the normalization amplifies it"
            )
    return found


class Marks(NamedTuple):
    """The folded scale of one normalization, and where its statistics look wrong."""

    scale: NDArray[np.float64]
    """(S, F), |gamma| / sqrt(var + eps)."""
    unseen: NDArray[np.bool_]
    """(S,), timesteps that training never reached."""
    decayed: NDArray[np.bool_]
    """(S, F), variances that are 0 after step 0."""
    huge: NDArray[np.bool_]
    """(S, F), scales above HUGE_SCALE after step 0."""


def marks(norm: "StepwiseBatchNorm") -> Marks:
    """Find where the statistics of a normalization look wrong.

    Raises:
        FoldError: They are negative or not finite.
    """
    steps = norm.max_length
    unseen = (norm.num_batches_tracked == 0).numpy()
    later = np.arange(steps) > (0 if steps > 1 else -1)
    scale = np.abs(
        affine(
            norm.running_mean.double().numpy(),
            norm.running_var.double().numpy(),
            norm.eps,
            gamma=norm.weight.detach().double().numpy(),
        ).scale
    )
    decayed = _decayed(norm) & (later & ~unseen)[:, None]
    return Marks(scale, unseen, decayed, (scale > HUGE_SCALE) & later[:, None])


def _of_norm(norm: "StepwiseBatchNorm") -> list[str]:
    found = []
    scale, unseen, decayed, huge = marks(norm)
    steps = len(unseen)
    if unseen.any():
        found.append(
            f"steps {_ranges(unseen)} of {steps} were never visited in training and have their "
            "initial statistics, mean 0 and variance 1; recalibrate on sequences that reach them"
        )
    if decayed.any():
        found.append(
            f"the variance of {int(decayed.any(axis=0).sum())} features is 0 at steps "
            f"{_ranges(decayed.any(axis=1))}; the feature was constant in training there"
        )
    if huge.any():
        largest = scale[huge].max()
        found.append(
            f"the folded scale reaches {largest:.3g} at steps {_ranges(huge.any(axis=1))}; "
            "rounding errors grow by as much"
        )
    return found


def _decayed(norm: "StepwiseBatchNorm") -> NDArray[np.bool_]:
    """Return where the variance has decayed to 0, (S, F)."""
    decayed: NDArray[np.bool_] = norm.running_var.double().numpy() <= DECAYED * norm.eps
    return decayed


def _ranges(rows: NDArray[np.bool_] | np.bool_) -> str:
    """Return the set rows as `3, 7 to 12`."""
    steps = np.flatnonzero(rows)
    runs = np.split(steps, np.flatnonzero(np.diff(steps) > 1) + 1)
    shown = [str(r[0]) if len(r) == 1 else f"{r[0]} to {r[-1]}" for r in runs[:4]]
    return ", ".join(shown) + (f" and {len(runs) - 4} more" if len(runs) > 4 else "")
