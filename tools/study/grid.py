"""Which experiments answer which question."""

from collections.abc import Iterator

from bnlstm_deploy.normalizations import PATHS
from tools.study.models import Experiment, subsets

ABLATED = ("digits", "adding", "characters")
"""The tasks of the ablation of all subsets."""

SEEDS = range(3)


def experiments(task: str, *, quick: bool = False) -> list[Experiment]:
    """Return all experiments of a task, each once, the same seed of all variants together.

    The quick ones are those of the first seed, without the subsets of one and two.
    """
    if quick:
        return [
            e for e in _variants(task, SEEDS[0]) if len(e.normalize) in {0, 3} or e.sequence_wise
        ]
    return [experiment for seed in SEEDS for experiment in _variants(task, seed)]


def _variants(task: str, seed: int) -> Iterator[Experiment]:
    if task == "permuted-mnist":
        if seed == 0:  # a quarter of an hour each
            yield Experiment(task, seed=seed)
            yield Experiment(task, (), seed=seed)
            yield Experiment(task, ("cell",), seed=seed)
        return
    if task in ABLATED:
        for normalize in subsets():
            yield Experiment(task, normalize, seed=seed)
    else:
        yield Experiment(task, seed=seed)
        yield Experiment(task, (), seed=seed)
    yield Experiment(task, (), forget_bias=1.0, seed=seed)
    if task in {"digits", "adding"}:
        yield Experiment(task, kind="layer", seed=seed)
        yield Experiment(task, ("input",), sequence_wise=True, seed=seed)
        yield Experiment(task, PATHS, shared=True, seed=seed)
    if task == "digits":
        for gamma_init in (0.3, 1.0):
            yield Experiment(task, gamma_init=gamma_init, seed=seed)
    if task == "characters":
        for dropout in (0.0, 0.3):
            for normalize in ((), PATHS):
                yield Experiment(task, normalize, num_layers=2, dropout=dropout, seed=seed)
