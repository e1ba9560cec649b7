"""verify(): the fold and the exported graph against the training model."""

import contextlib
import datetime
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from bnlstm_deploy.atomic import check_free_folder
from bnlstm_deploy.checkpoint import state_sha256
from bnlstm_deploy.errors import BnlstmError, InputError, RuntimeSessionError, VerificationError
from bnlstm_deploy.exporting.lifted import recurrent_layers
from bnlstm_deploy.folding import fold
from bnlstm_deploy.metadata import RecurrentLayers
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime.providers import Provider
from bnlstm_deploy.verification.diagnosis.failure import explain
from bnlstm_deploy.verification.judging.comparison import Scales
from bnlstm_deploy.verification.judging.report import Report
from bnlstm_deploy.verification.judging.structure import Finding, check_structure
from bnlstm_deploy.verification.measuring.approximation import approximation_in
from bnlstm_deploy.verification.measuring.backend import Backend
from bnlstm_deploy.verification.measuring.branches import Branches
from bnlstm_deploy.verification.measuring.cases import Sample, default_sample
from bnlstm_deploy.verification.measuring.checker import Checker, converting
from bnlstm_deploy.verification.measuring.conditions import check_conditions
from bnlstm_deploy.verification.measuring.data import Agreement, check_data, read_data
from bnlstm_deploy.verification.measuring.draw import Draw
from bnlstm_deploy.verification.measuring.emulate import runnable
from bnlstm_deploy.verification.measuring.graphs import opened, opening_copies
from bnlstm_deploy.verification.measuring.lengths import find_lengths
from bnlstm_deploy.verification.measuring.precision import check_precision
from bnlstm_deploy.verification.measuring.process import Graph
from bnlstm_deploy.verification.measuring.search import check_worst_case
from bnlstm_deploy.verification.versions import versions

if TYPE_CHECKING:
    from bnlstm_deploy.verification.measuring.endpoint import Endpoint

SMALL = 256
"""H up to which torch is not faster with several threads."""

EXAMPLE_BATCH, EXAMPLE_TIME = 5, 9
"""Of the inputs that tell which of them are lengths: random ones of equal values are unlikely."""


def verify(
    model: nn.Module,
    path: str | Path,
    *,
    sample: Sample | None = None,
    data: Sequence[str | Path] = (),
    providers: Sequence[Provider] = ("cpu",),
    native: bool = True,
    ratio_limit: float = 4.0,
    budget: float | None = None,
    search_seconds: float = 3.0,
    seed: int = 0,
    isolated: bool = True,
    bundle: str | Path | None = None,
    endpoint: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Check that an exported graph computes what its training model computes.

    In stages, each with a verdict of its own:

        structure    the file itself: valid ONNX, names, shapes, types, opset, checkpoint hash
        algebra      the fold against the training model, both in float64, at most 1e-10 apart
        precision    the graph on ONNX Runtime against the training model in float64
        conditions   streams that must not matter to others, padding, extreme inputs
        worst case   the inputs on which a search finds the largest errors
        data         the user's own inputs, if any are given
        cost         what the file changes on purpose, if it does

    On the CPU the file is checked with its own function body and with the native kernel for each
    instruction set of this machine, or for the one that BNLSTM_DEPLOY_NATIVE names (`0`: for none).
    A file that the native kernel cannot run, such as one in float16, is checked with its function
    body; `Report.no_native` says so.

    No fixed tolerance is right for the graph, since rounding is amplified by what the model has
    learned; so the yardstick is the error that the training model itself makes in float32 against
    the same truth, on the same inputs (`Report.budget` says it exactly).

    Where the file's rows were merged with a tolerance, or its weights are stored in fewer bits, the
    outputs differ on purpose. How much is measured, in float64, as `Report.costs`, and on extreme
    inputs, too, as `Report.merge_error`; the graph is held to the fold that is so changed. A graph
    for one number of timesteps is checked on sequences of that many. A bfloat16 graph, for which a
    CPU has no kernels, is emulated on it (`measuring.emulate`). If the check fails, its clearest
    failure is looked into: see `verification.diagnosis`.

    Args:
        model: The training model. It is copied, not changed.
        path: The exported file.
        sample: Makes inputs; standard normal ones of the file's shapes by default. Needed where
            integers are among the inputs.
        data: `.npz` files with inputs of the user's own, by the graph's names, and labels `y`.
        providers: Execution providers; the graph is checked on each.
        native: Whether the native kernel is checked, too, and not the function body alone.
        ratio_limit: How many times the training model's own error is allowed.
        budget: How far what the file changes on purpose may move an output of the model: on `data`,
            or on random inputs if there are none; any distance by default.
        search_seconds: For how long to search for the worst inputs; 0 for no search.
        seed: Of the random inputs, states, lengths, steps and chunks.
        isolated: Whether each graph runs in a process of its own, so that its crash is a result.
        bundle: A folder to make if the check fails, which reproduces the failure: see
            `reporting.bundle`.
        endpoint: Of a served model, `http://HOST:PORT/v2/models/NAME`: it is checked in the place
            of the file, which is to be the one that is served; see `measuring.endpoint`.
            The only provider is for what still runs here, a diagnosis. Which kernel the server uses
            is up to it.
        progress: Called with the stage, the number of its cases done, and of all of them.

    Returns:
        Everything measured, and whether it passed.

    Raises:
        VerificationError: The graph is of a model with other layers, or `sample` is missing.
        FoldError: The model cannot be folded.
        InputError: The data cannot be read, or does not fit the graph; `bundle` exists, or is of an
            endpoint; the endpoint is no address, or its server refuses a case by its limits.
        ServingError: The endpoint cannot be reached, or does not answer.
        RuntimeSessionError: The file or a provider cannot be used, or BNLSTM_DEPLOY_NATIVE names an
            instruction set that cannot be had.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model is a {type(model).__name__} and path is a {type(path).__name__}; pass the "
            "training model first, and then the path of the exported file"
        )
    path = Path(path)
    if not providers:
        raise RuntimeSessionError("providers is []; pass at least one, such as 'cpu'")
    if endpoint is not None and (len(providers) > 1 or bundle is not None):
        raise InputError(
            f"providers is {list(providers)} and bundle is {bundle} with an endpoint; pass one "
            "provider and no bundle, which reruns a file and not a server"
        )
    if bundle is not None:
        check_free_folder(Path(bundle))
    show = progress or (lambda stage, done, total: None)
    with (
        _few_threads(model),
        runnable(path, providers) as run_path,
        opened(
            run_path,
            providers,
            no_native=_no_native(native=native and endpoint is None, emulated=run_path != path),
            isolated=isolated,
        ) as local,
        _served(endpoint, local.by_backend) as served,
        opening_copies(isolated=isolated) as open_copy,
    ):
        graphs = local.by_backend if served is None else {Backend(served.url, kernel=""): served}
        graph = next(iter(graphs.values()))
        _check_same_layers(recurrent_layers(model), graph.metadata.layers)
        generator = np.random.default_rng(seed)
        sample = sample or default_sample(model, graph)
        time = graph.metadata.length or EXAMPLE_TIME
        examples = sample(np.random.default_rng(seed), EXAMPLE_BATCH, time)
        metadata, structure = check_structure(model, path, graph, examples)
        for each in graphs.values():
            each.metadata = metadata
        own = read_data([Path(file) for file in data], graph) if data else None
        lengths = [graph.inputs[number].name for number in find_lengths(model, examples)]
        draw = Draw(graph, sample, generator, lengths)
        proto = onnx.load(run_path)
        checker = Checker(model, graphs, seed, approximation_in(model, proto, metadata))
        _check_same_outputs(checker, examples)
        if served is not None:
            structure += served.findings
            if not served.alike:
                checker.graphs.clear()
        branches = None if served is not None else Branches(proto, open_copy)
        not_checked = check_precision(checker, draw, generator, served, branches, show)
        show("conditions", 0, 1)
        check_conditions(checker, draw)
        worst = None
        if search_seconds > 0 and checker.graphs:
            show("worst case", 0, 1)
            worst = check_worst_case(checker, draw, search_seconds)
        agreements: tuple[Agreement, ...] = ()
        if own is not None:
            show("data", 0, 1)
            agreements = check_data(checker, own, draw.most_streams)
        report = Report(
            comparisons=tuple(checker.comparisons),
            metadata=graph.metadata,
            checkpoint_sha256=state_sha256(model),
            ratio_limit=ratio_limit,
            seed=seed,
            merge_error=checker.merge_error,
            costs=tuple(checker.costs.values()),
            cost_limit=budget,
            curves=tuple(checker.curves.values()),
            scales=tuple(_scales(model)),
            structure=(
                *structure,
                _declared(checker),
                *([] if branches is None else [branches.finding]),
            ),
            crashes=tuple(f"{backend}, {why}" for backend, why in checker.crashes.items()),
            agreements=agreements,
            worst=worst,
            environment=_environment(path, list(graphs), emulated=run_path != path),
            no_native=local.no_native if served is None else "",
            not_checked=tuple(not_checked),
        )
        if not report.passed:
            show("diagnosis", 0, 1)
            names = dict.fromkeys(backend.provider for backend in graphs)
            named = dict(zip(names, providers, strict=True))
            folder = None if bundle is None else Path(bundle)
            report = explain(report, model, run_path, checker, named, folder)
    return report


@contextlib.contextmanager
def _few_threads(model: nn.Module) -> Iterator[None]:
    """Let torch compute small models by one thread: several would only wait for each other."""
    sizes = [module.hidden_size for module in model.modules() if isinstance(module, BNLSTM)]
    before = torch.get_num_threads()
    torch.set_num_threads(1 if max(sizes, default=0) <= SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _served(
    url: str | None, graphs: Mapping[Backend, Graph]
) -> "AbstractContextManager[Endpoint | None]":
    """Open the endpoint that is to be checked in the place of the file, if there is one."""
    if url is None:
        return contextlib.nullcontext()
    from bnlstm_deploy.verification.measuring.endpoint import Endpoint  # noqa: PLC0415 (it needs the extra client)

    return Endpoint(url, next(iter(graphs.values())))


def _no_native(*, native: bool, emulated: bool) -> str:
    """Return why the native kernel is not to be opened; empty if it is."""
    if not native:
        return "native=False"
    return "a bfloat16 graph is emulated on a CPU" if emulated else ""


def _check_same_layers(
    expected: tuple[RecurrentLayers, ...], found: tuple[RecurrentLayers, ...]
) -> None:
    # Whether they stream is up to the graph, too.
    one, other = ([replace(e, streams=False) for e in entries] for entries in (expected, found))
    if one != other:
        raise VerificationError(
            f"the graph was exported from a model with the recurrent layers {found}, the "
            f"checkpoint has {expected}; check it against its own checkpoint"
        )


def _check_same_outputs(checker: Checker, examples: Sequence[Tensor]) -> None:
    names = [value.name for value in checker.graph.inputs]
    feeds = {name: x.numpy() for name, x in zip(names, examples, strict=True)}
    expected = checker.truth.run(feeds)
    try:
        actual = converting(checker.graph)(feeds)
    except BnlstmError:  # which is found elsewhere
        return
    shapes = [(expected[v.name].shape, actual[v.name].shape) for v in checker.graph.outputs]
    if any(one != other for one, other in shapes):
        raise VerificationError(
            f"the model gives outputs of the shapes {[one for one, _ in shapes]}, the file of "
            f"{[other for _, other in shapes]}; check it against the model that it is an export of"
        )


def _declared(checker: Checker) -> Finding:
    """Whether all outputs had the shapes that the file declares."""
    wrong = "; ".join(checker.misdeclared.values())
    return Finding("outputs", not wrong, wrong or "of the declared shapes")


def _scales(model: nn.Module) -> Iterator[Scales]:
    """Yield the largest folded scales of every layer and direction."""
    for path, module in model.named_modules():
        if isinstance(module, BNLSTM):
            directions = [direction for layer in fold(module).layers for direction in layer]
            for (_, suffix), folded in zip(module.directions(), directions, strict=True):
                largest = {
                    name: tuple(np.abs(array[folded.rows]).max(axis=1).tolist())
                    for name, array in (
                        ("input", folded.input_scale),
                        ("hidden", folded.hidden_scale),
                        ("cell", folded.cell_scale),
                    )
                }
                yield Scales(name=path + suffix, **largest)


def _environment(path: Path, backends: Sequence[Backend], *, emulated: bool) -> Mapping[str, str]:
    how = " (bfloat16 emulated)" if emulated else ""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "file": path.name,
        "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "providers": ", ".join(dict.fromkeys(b.provider for b in backends)) + how,
        "kernels": ", ".join(dict.fromkeys(b.kernel for b in backends)),
        **versions(),
    }
