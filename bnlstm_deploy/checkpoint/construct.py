"""From a matched checkpoint to a BNLSTM."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnlstm_deploy.checkpoint.layout import Layout
from bnlstm_deploy.checkpoint.match import Match
from bnlstm_deploy.checkpoint.source import Array, NormArrays, Source
from bnlstm_deploy.nn import BNLSTM, NormPath
from bnlstm_deploy.normalizations import PATHS

Norms = dict[NormPath, NormArrays]


def build(found: Match, tensors: Mapping[str, Tensor], *, batch_first: bool = False) -> BNLSTM:
    """Build the BNLSTM that a matched checkpoint describes, in evaluation mode.

    All arithmetic is float64. The result is float32 if every value of it is exact in float32, else
    float64, so that importing rounds nothing.

    Args:
        found: A complete match.
        tensors: The checkpoint.
        batch_first: Axes of input and output, which no checkpoint tells.

    Raises:
        CheckpointError: A tensor with NaN or infinity, or of a shape that contradicts the others.
        LayoutError: An initial state that differs between streams.
    """
    source = Source(found, tensors)
    layout = found.layout
    state: dict[str, Array] = {}
    norms: dict[str, Norms] = {}
    for number, place in enumerate(found.places()):
        layer, reverse = divmod(number, len(found.directions))
        suffix = f"_l{layer}{'_reverse' * reverse}"
        state |= {name + suffix: array for name, array in source.weights(place).items()}
        norms[suffix] = {
            path: source.norm(path, norm, place)
            for path, norm in layout.normalization.items()
            if norm.applied and found.has(path)
        }
    initial = source.initial_state()
    source.check()
    settings = _settings(list(norms.values()), layout)
    for suffix, paths in norms.items():
        for path, norm in paths.items():
            state |= _norm_state(f"{path}_norm{suffix}", path, norm, settings)
    model = BNLSTM(
        state["weight_ih_l0"].shape[1],
        source.hidden_size,
        found.num_layers,
        bias="bias_ih_l0" in state,
        batch_first=batch_first,
        bidirectional=len(found.directions) == 2,
        learn_initial_state=bool(initial),
        **settings,
    )
    return _load(model, state | initial)


def _settings(norms: list[Norms], layout: Layout) -> dict[str, Any]:
    """Return the arguments of BNLSTM that say what is normalized, and how."""
    steps: dict[NormPath, int] = {}
    for paths in norms:
        for path, norm in paths.items():
            steps[path] = max(steps.get(path, 1), _steps(norm))
    longest = max(steps.values(), default=1)
    eps = {path: layout.normalization[path].eps for path in steps}
    values = set(eps.values())
    return {
        "max_length": longest,
        "normalize": tuple(steps),
        "beta": tuple(p for p in steps if any(paths[p].beta is not None for paths in norms)),
        "shared_statistics": tuple(p for p, own in steps.items() if own < longest and own == 1),
        "affine_per_step": tuple(p for p in steps if any(_is_stepwise(n[p]) for n in norms)),
        "eps": {p: eps.get(p, 0.0) for p in PATHS} if len(values) > 1 else max(values, default=0.0),
    }


def _steps(norm: NormArrays) -> int:
    arrays = [norm.mean, norm.var, norm.gamma, *([] if norm.beta is None else [norm.beta])]
    return max(len(array) for array in arrays)


def _is_stepwise(norm: NormArrays) -> bool:
    return len(norm.gamma) > 1 or (norm.beta is not None and len(norm.beta) > 1)


def _norm_state(
    name: str, path: NormPath, norm: NormArrays, settings: dict[str, Any]
) -> dict[str, Array]:
    """Return the state dict of one StepwiseBatchNorm."""
    steps = 1 if path in settings["shared_statistics"] else settings["max_length"]
    stepwise = path in settings["affine_per_step"]

    def rows(array: Array) -> Array:
        return array[np.minimum(np.arange(steps), len(array) - 1)]

    def affine(array: Array) -> Array:
        return rows(array) if stepwise else array[0]

    state = {
        f"{name}.running_mean": rows(norm.mean),
        f"{name}.running_var": rows(norm.var),
        f"{name}.num_batches_tracked": rows(norm.count),
        f"{name}.weight": affine(norm.gamma),
    }
    if path in settings["beta"]:
        beta = np.zeros_like(norm.gamma[:1]) if norm.beta is None else norm.beta
        state[f"{name}.bias"] = affine(beta)
    return state


def _load(model: BNLSTM, state: dict[str, Array]) -> BNLSTM:
    """Load arrays into a model in the smallest dtype that holds them exactly."""
    exact = all(np.array_equal(array.astype(np.float32), array) for array in state.values())
    model.to(torch.float32 if exact else torch.float64)
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()})
    return model.eval()
