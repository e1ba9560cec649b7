"""Known mistakes in the arrays of one layer and direction, as a table of names and functions."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.fold import FoldedDirection
from bnlstm_deploy.fold.folded import FLOATS
from bnlstm_deploy.nn import NormPath
from bnlstm_deploy.nn.cell import PATHS
from bnlstm_deploy.verify.diagnosis.parts import Norm, Parts

EPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 0.0)
BATCHES = (2, 4, 8, 16, 32, 64, 100, 128, 256, 512)
"""Batch sizes n for which a biased variance is (n - 1) / n of an unbiased one."""

GATES = "ifgo"
PRODUCTS = {"input": "input product", "hidden": "hidden product", "cell": "cell"}

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Alteration:
    """A mistake that can be made in one layer and direction."""

    name: str
    make: Callable[[Parts], FoldedDirection | None]
    """Returns the fold with the mistake in it; None where it cannot be made."""


def _permuted(order: str, parts: Parts) -> FoldedDirection:
    fold = parts.fold()
    blocks = np.arange(4 * parts.hidden_size).reshape(4, -1)
    index = blocks[[GATES.index(gate) for gate in order]].ravel()
    gates = ("input_scale", "hidden_scale", "bias")
    return replace(
        fold,
        weight_ih=fold.weight_ih[index],
        weight_hh=fold.weight_hh[index],
        **{name: getattr(fold, name)[:, index] for name in gates},
    )


def _gate_orders() -> Iterator[Alteration]:
    for order in itertools.permutations(GATES):
        if "".join(order) != GATES:
            name = f"gates permuted: the file has them in the order {','.join(order)}"
            yield Alteration(name, partial(_permuted, "".join(order)))


def _of_norms(
    paths: tuple[NormPath, ...], change: Callable[[Norm], Norm | None], parts: Parts
) -> FoldedDirection | None:
    """Change the normalizations of some paths, of those that the model has."""
    present = {path: norm for path in paths if (norm := parts.norm(path)) is not None}
    if not present:
        return None
    changed: dict[str, Norm | None] = {path: change(norm) for path, norm in present.items()}
    return replace(parts, **changed).fold()  # type: ignore[arg-type]


def _each_path(name: str, change: Callable[[Norm], Norm | None]) -> Iterator[Alteration]:
    """The same mistake in all normalizations, and in each alone."""
    yield Alteration(name, partial(_of_norms, PATHS, change))
    for path in PATHS:
        where = f"{name}, in the normalization of the {PRODUCTS[path]} only"
        yield Alteration(where, partial(_of_norms, (path,), change))


def _shifted(by: int, wrap: bool, norm: Norm) -> Norm:
    steps = len(norm.mean)
    source = np.arange(steps) + by
    source = source % steps if wrap else np.clip(source, 0, steps - 1)
    gamma, beta = (v if v is None or v.ndim == 1 else v[source] for v in (norm.gamma, norm.beta))
    assert gamma is not None
    return replace(norm, mean=norm.mean[source], var=norm.var[source], gamma=gamma, beta=beta)


def _shifts() -> Iterator[Alteration]:
    ends = {(1, False): "", (1, True): ", of step 0 at the last", (-1, False): ""}
    ends[-1, True] = ", of the last at step 0"
    for (by, wrap), end in ends.items():
        name = f"statistics of step t {'+-'[by < 0]} 1 used at step t{end}"
        yield from _each_path(name, partial(_shifted, by, wrap))


def _with_eps(eps: float, norm: Norm) -> Norm:
    return replace(norm, eps=eps)


def _with_var(factor: float, norm: Norm) -> Norm:
    return replace(norm, var=norm.var * factor)


def _with_beta(factor: float, norm: Norm) -> Norm:
    return norm if norm.beta is None else replace(norm, beta=norm.beta * factor)


def _without_mean(norm: Norm) -> Norm:
    return replace(norm, mean=np.zeros_like(norm.mean))


def _without_gamma(norm: Norm) -> Norm:
    return replace(norm, gamma=np.ones_like(norm.gamma))


def _by_variance(norm: Norm) -> Norm:
    # gamma / (var + eps) as gamma' / sqrt(var + eps): the rows of gamma' follow the statistics
    return replace(norm, gamma=norm.gamma / np.sqrt(norm.var + norm.eps), beta=_rows(norm))


def _rows(norm: Norm) -> Array | None:
    return None if norm.beta is None else np.broadcast_to(norm.beta, norm.mean.shape)


def _nothing(norm: Norm) -> None:
    del norm


def _normalization() -> Iterator[Alteration]:
    """Beta, mean, gamma and eps, from what is specific to what is not."""
    for path in PATHS:
        of = f"of the {PRODUCTS[path]}'s normalization"
        yield Alteration(
            f"beta {of} missing", partial(_of_norms, (path,), partial(_with_beta, 0.0))
        )
        twice = partial(_with_beta, 2.0)
        yield Alteration(f"beta {of} counted twice", partial(_of_norms, (path,), twice))
        yield Alteration(f"gamma {of} missing", partial(_of_norms, (path,), _without_gamma))
        yield Alteration(f"mean {of} not subtracted", partial(_of_norms, (path,), _without_mean))
    yield Alteration("cell shift missing", partial(_without, "cell_shift", 0.0))
    yield Alteration("cell scale missing", partial(_without, "cell_scale", 1.0))
    yield Alteration("cell affine missing", partial(_of_norms, ("cell",), _nothing))
    for path in PATHS[:2]:
        name = f"normalization of the {PRODUCTS[path]} missing"
        yield Alteration(name, partial(_of_norms, (path,), _nothing))
    yield Alteration("gammas missing", partial(_of_norms, PATHS, _without_gamma))
    yield Alteration("means not subtracted", partial(_of_norms, PATHS, _without_mean))
    yield from _each_path("divided by the variance instead of its square root", _by_variance)
    yield Alteration("normalizations of input and hidden product swapped", _swapped)
    yield Alteration("scales of input and hidden product swapped", _exchanged_scales)
    for eps in EPS:
        yield from _each_path(f"eps wrong: {eps:g}", partial(_with_eps, eps))
    for n in BATCHES:
        biased, unbiased = (n - 1) / n, n / (n - 1)
        name = f"biased instead of unbiased variance, for batches of {n}"
        yield Alteration(name, partial(_of_norms, PATHS, partial(_with_var, biased)))
        name = f"unbiased instead of biased variance, for batches of {n}"
        yield Alteration(name, partial(_of_norms, PATHS, partial(_with_var, unbiased)))


def _without(name: str, value: float, parts: Parts) -> FoldedDirection:
    fold = parts.fold()
    return replace(fold, **{name: np.full_like(getattr(fold, name), value)})


def _swapped(parts: Parts) -> FoldedDirection:
    return replace(parts, input=parts.hidden, hidden=parts.input).fold()


def _biased(factor_ih: float, factor_hh: float, parts: Parts) -> FoldedDirection:
    bias_ih, bias_hh = factor_ih * parts.bias_ih, factor_hh * parts.bias_hh
    return replace(parts, bias_ih=bias_ih, bias_hh=bias_hh).fold()


def _folded_bias(factor: float, parts: Parts) -> FoldedDirection:
    fold = parts.fold()
    return replace(fold, bias=factor * fold.bias)


def _exchanged_scales(parts: Parts) -> FoldedDirection:
    fold = parts.fold()
    return replace(fold, input_scale=fold.hidden_scale, hidden_scale=fold.input_scale)


def _forget(added: float, parts: Parts) -> FoldedDirection:
    bias = parts.bias_ih.copy()
    bias[parts.hidden_size : 2 * parts.hidden_size] += added
    return replace(parts, bias_ih=bias).fold()


def _biases() -> Iterator[Alteration]:
    yield Alteration("a forget bias of 1 added", partial(_forget, 1.0))
    yield Alteration("a forget bias of 1 lost", partial(_forget, -1.0))
    for name, factor_ih, factor_hh in (
        ("bias missing", 0.0, 0.0),
        ("bias counted twice", 2.0, 2.0),
        ("bias_ih missing", 0.0, 1.0),
        ("bias_hh missing", 1.0, 0.0),
        ("bias_ih counted twice", 2.0, 1.0),
        ("bias_hh counted twice", 1.0, 2.0),
    ):
        yield Alteration(name, partial(_biased, factor_ih, factor_hh))
    yield Alteration("folded bias missing", partial(_folded_bias, 0.0))
    yield Alteration("folded bias counted twice", partial(_folded_bias, 2.0))


def _transposed(name: str, parts: Parts) -> FoldedDirection | None:
    """Transpose the (H, H) block of each gate."""
    weight: Array = getattr(parts, name)
    rows, columns = weight.shape
    if rows != 4 * columns:
        return None
    blocks = np.concatenate([block.T for block in np.split(weight, 4)])
    return replace(parts, **{name: blocks}).fold()  # type: ignore[arg-type]


def _past_the_last(wrap: bool, parts: Parts) -> FoldedDirection | None:
    """From timestep S on, use the rows from 0 on again, or row 0."""
    fold = parts.fold()
    if parts.reached <= fold.steps:
        return None
    steps = np.arange(parts.reached)
    rows = steps % fold.steps if wrap else np.where(steps < fold.steps, steps, 0)
    return replace(fold, rows=rows)


def _first_row(parts: Parts) -> FoldedDirection:
    fold = parts.fold()
    return replace(fold, rows=np.zeros_like(fold.rows))


def _no_statistics(parts: Parts) -> FoldedDirection | None:
    fold = parts.fold()
    if parts.reached <= fold.steps:
        return None
    bare = replace(parts, input=None, hidden=None, cell=None).fold()
    arrays = {n: np.concatenate([getattr(fold, n), getattr(bare, n)]) for n in FLOATS[2:]}
    return replace(fold, **arrays, rows=np.arange(fold.steps + 1))


def _clamps() -> Iterator[Alteration]:
    past = "last-row clamp missing: timesteps past the last statistics"
    yield Alteration(f"{past} wrap around", partial(_past_the_last, True))
    yield Alteration(f"{past} use those of step 0", partial(_past_the_last, False))
    yield Alteration(f"{past} are not normalized", _no_statistics)
    yield Alteration("statistics of step 0 used at all timesteps", _first_row)


ALTERATIONS = (
    *_gate_orders(),
    Alteration("weight_hh transposed, gate by gate", partial(_transposed, "weight_hh")),
    Alteration("weight_ih transposed, gate by gate", partial(_transposed, "weight_ih")),
    *_clamps(),
    *_biases(),
    *_normalization(),
    *_shifts(),
)
"""All mistakes of one layer and direction, the most specific first."""
