"""verify(): the fold and the exported graph against the training model."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bnlstm_deploy.checkpoint import state_sha256
from bnlstm_deploy.errors import VerificationError
from bnlstm_deploy.export.lifted import recurrent_layers
from bnlstm_deploy.export.model import fold_layers
from bnlstm_deploy.metadata import RecurrentLayers
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.runtime.inputs import Array
from bnlstm_deploy.runtime.providers import Provider
from bnlstm_deploy.verify.cases import Case, Sample, default_sample, make_cases, make_given
from bnlstm_deploy.verify.noise import NoisyActivations
from bnlstm_deploy.verify.report import Comparison, Report, Stage, compare
from bnlstm_deploy.verify.run import TorchModel, run_chunks


def verify(
    model: nn.Module,
    path: str | Path,
    *,
    sample: Sample | None = None,
    providers: Sequence[Provider] = ("cpu",),
    ratio_limit: float = 4.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check that an exported graph computes what its training model computes.

    Two stages over the cases of `make_cases`. *Algebra*: the fold against the training model, both
    in float64, at most 1e-10 apart. *Precision*: the graph on ONNX Runtime against the training
    model in float64. No fixed tolerance is right for the latter, since rounding is amplified by
    what the model has learned; so the yardstick is the error that the training model itself makes
    in float32 against the same truth, on the same inputs (`Report.budget` says it exactly).

    Args:
        model: The training model. It is copied, not changed.
        path: The exported file.
        sample: Makes inputs; needed unless `model` is a BNLSTM or a BNLSTMModel, which get standard
            normal ones.
        providers: As in `Session`.
        ratio_limit: How many times the training model's own float32 error is allowed.
        seed: Of the random inputs, states, lengths, steps and chunks.
        progress: Called with the number of cases done and of all cases.

    Returns:
        The comparisons, and whether they passed.

    Raises:
        VerificationError: The graph is of a model with other layers, or `sample` is missing.
        FoldError: The model cannot be folded.
        RuntimeSessionError: The file or a provider cannot be used.
    """
    session = Session(path, providers=providers)
    layers = recurrent_layers(model)
    _check_same_layers(layers, session.metadata.layers)
    sample = sample or default_sample(model)
    truth = TorchModel(copy.deepcopy(model), layers, session, torch.float64)
    own = TorchModel(copy.deepcopy(model), layers, session, torch.float32)
    folded = TorchModel(fold_layers(model, torch.float64), layers, session, torch.float64)

    generator = np.random.default_rng(seed)
    streams = all(entry.streams for entry in layers)
    cases = make_cases(session.metadata.steps, streams=streams, generator=generator)
    algebra: list[Comparison] = []
    precision: list[Comparison] = []
    for done, case in enumerate(cases):
        if progress is not None:
            progress(done, len(cases))
        inputs = [tensor.numpy(force=True) for tensor in sample(generator, case.batch, case.time)]
        feeds = {v.name: array for v, array in zip(session.inputs, inputs, strict=True)}
        given = make_given(case, layers, generator)
        feeds |= {v.name: given[v.name] for v in session.state_inputs if v.name in given}
        expected = truth.run(feeds)
        if case.chunks and not _agree(run_chunks(truth.run, session, case, feeds), expected):
            continue  # the model does more over time than its BNLSTM: it has no streaming form
        rounded = own.run(feeds)
        with NoisyActivations(seed):
            noisy = truth.run(feeds)
        if case.chunks:
            actual = run_chunks(session.run, session, case, _convert(feeds, session))
        else:
            actual = session.run(_convert(feeds, session))
            exact = folded.run(feeds)
            algebra += _compare("algebra", case, exact, rounded, noisy, expected)
        precision += _compare("precision", case, actual, rounded, noisy, expected)
    if progress is not None:
        progress(len(cases), len(cases))
    return Report(
        algebra=tuple(algebra),
        precision=tuple(precision),
        metadata=session.metadata,
        checkpoint_sha256=state_sha256(model),
        ratio_limit=ratio_limit,
        seed=seed,
    )


def _check_same_layers(
    expected: tuple[RecurrentLayers, ...], found: tuple[RecurrentLayers, ...]
) -> None:
    if expected != found:
        raise VerificationError(
            f"the graph was exported from a model with the recurrent layers {found}, the "
            f"checkpoint has {expected}; check it against its own checkpoint"
        )


def _convert(feeds: Mapping[str, Array], session: Session) -> dict[str, Array]:
    """Return the feeds in the dtypes that the graph takes."""
    dtypes = {value.name: value.dtype for value in (*session.inputs, *session.state_inputs)}
    return {name: array.astype(dtypes[name] or array.dtype) for name, array in feeds.items()}


def _compare(
    stage: Stage,
    case: Case,
    checked: dict[str, Array],
    own: dict[str, Array],
    noisy: dict[str, Array],
    truth: dict[str, Array],
) -> list[Comparison]:
    return [
        compare(
            stage, str(case), case.time, name, checked[name], own[name], noisy[name], truth[name]
        )
        for name in truth
    ]


def _agree(one: dict[str, Array], other: dict[str, Array]) -> bool:
    return all(
        one[name].shape == other[name].shape and np.allclose(one[name], other[name], rtol=1e-9)
        for name in other
    )
