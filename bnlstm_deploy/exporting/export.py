"""export(): any torch model that holds BNLSTM layers becomes an ONNX file."""

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from bnlstm_deploy.atomic import check_writable, replacing
from bnlstm_deploy.checkpoint.digest import state_sha256
from bnlstm_deploy.choices import Activations, Folding, Form, StateInputs, Target, Weights
from bnlstm_deploy.dtypes import STORED
from bnlstm_deploy.errors import ExportError, InputError
from bnlstm_deploy.exporting.choose import Request, summarize
from bnlstm_deploy.exporting.folded_module import FoldedBNLSTM, wide_dtype
from bnlstm_deploy.exporting.forms import FACTORED, unrolled
from bnlstm_deploy.exporting.graph import check_dynamic, finish
from bnlstm_deploy.exporting.lifted import Lifted, recurrent_layers, recurrent_modules
from bnlstm_deploy.exporting.padding import find_time_axes
from bnlstm_deploy.exporting.values import (
    DynamicShapes,
    GraphInput,
    example_inputs,
    own_inputs,
    result_names,
    state_input,
    with_fixed_time,
)
from bnlstm_deploy.folding.approximate import EXACT, INT8, Approximation
from bnlstm_deploy.folding.calibrate import Calibrated, Observed
from bnlstm_deploy.folding.calibrate import calibrate as round_direction
from bnlstm_deploy.metadata import OPTIONAL, REQUIRED, Metadata, RecurrentLayers
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.seal import serialize
from bnlstm_deploy.signature import TIME

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
OPSETS = range(18, 24)
DEFAULT_OPSET = 20


def export(
    model: nn.Module,
    path: str | Path,
    inputs: Sequence[Tensor] | None = None,
    *,
    dynamic_shapes: DynamicShapes | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
    opset: int = DEFAULT_OPSET,
    force: bool = False,
    form: Form = "auto",
    folding: Folding = "auto",
    target: Target = "cpu",
    length: int | None = None,
    merge_tolerance: float = 0.0,
    weights: Weights | None = None,
    activations: Activations | None = None,
    calibration: Iterable[object] | None = None,
    inline: bool = False,
    state: StateInputs = "optional",
) -> Metadata:
    """Fold the BNLSTM layers of a model and write it as one ONNX file.

    The graph computes what `model` computes in evaluation. Besides the model's own inputs and
    outputs it has, for its BNLSTM, the optional inputs

        initial_h, initial_c    (num_layers * num_directions, N, H); if left out, what the
                                BNLSTM starts from: zeros, or the state that it learned
        lengths                 (N,) int64; the input's length if left out
        start_step              (N,) int64; 0 if left out. Not with two directions, and not with
                                materialized weights

    and the outputs `h_n`, `c_n` and `next_step` (N,), except for inputs that the model passes to
    its BNLSTM itself. If it holds several BNLSTM, the names are prefixed with their module paths.
    Each layer and direction is one node `bnlstm::BNLSTM` (docs/operator.md) with a function body in
    standard operators.

    Args:
        model: Any module that holds BNLSTM layers. It is copied, not changed.
        path: The file to write.
        inputs: Example arguments of the model, with a batch and a time of at least 2. May be left
            out for a BNLSTM or a BNLSTMModel.
        dynamic_shapes: By default the batch and time axes as the BNLSTM lays them out in tensors of
            at least two axes, else the batch axis, under the names `batch` and `time`.
        input_names: Names of the model's inputs; by default those of its forward's parameters.
        output_names: Names of the model's outputs; by default `output`, or `output_0`, ....
        dtype: float32, float64, float16 or bfloat16. The fold is computed in float64 and rounded
            once. The last two are the dtype of weights and matrix products; cell states, scales
            and what is computed of a timestep are float32, and so are the graph's inputs and
            outputs (docs/precision.md).
        opset: ONNX opset, 18 to 23.
        force: Whether to replace an existing file.
        form: How the recurrence is written: `scan`, `unrolled`, `lstm`, or `auto` for whatever is
            fastest on the target among what is exact, for each layer and direction
            (docs/forms.md).
        folding: `factored`, with scales apart from the weights; `materialized`, with recurrent
            weights for each timestep, for whole sequences from step 0 only; or `auto`.
        target: Where the graph is to be fast: `cpu`, `cuda` or `tensorrt`. It runs on all.
        length: T, if all sequences have that many timesteps. The form `unrolled` needs it and fixes
            the graph's time to it; with `auto` it is taken into account, and a graph without
            unrolled nodes still takes any time.
        merge_tolerance: Let consecutive timesteps share their statistics where no value moves by
            more than this (`bnlstm_deploy.folding.merge`). Above 0 this changes what the graph
            computes; `verify` measures how much.
        weights: `int8`, `float16` or `bfloat16`: what weights are stored as, in a graph whose dtype
            is float32. They are rounded to the nearest, in int8 with a scale for each gate, and the
            body computes with them in float32 (docs/precision.md).
        activations: `int8`: h is rounded to multiples of 1/127 before the hidden product, which is
            then one of integers, where weights are in int8. CPUs have instructions for that, which
            the native kernel uses; the numbers are the same wherever it runs.
        calibration: Minibatches like those of `recalibrate`, on which weights in int8 are rounded
            so that their products change least, instead of each to the nearest. Of a model of
            one's own a tuple holds its arguments.
        inline: Replace the nodes `bnlstm::BNLSTM` by the nodes of their functions, for engines that
            know no functions (docs/engines.md). The native kernel cannot run such a file.
        state: `optional`, or `required`: initial states, lengths and start steps are inputs that
            must be there, for engines and tools that hide optional ones or freeze them
            (docs/engines.md). `Session` passes what is left out itself.

    Returns:
        The metadata that was written into the file.

    Raises:
        ExportError: `model` holds no BNLSTM or cannot be exported, an argument is out of range,
            the form is not exact for a layer, an axis that must be dynamic came out fixed, or the
            initial state was trained and is to be required.
        InputError: The file exists, or cannot be written.
        FoldError: Statistics or weights cannot be folded, or the tolerance is negative.
    """
    path = Path(path)
    check_writable(path, force=force)
    if dtype not in DTYPES:
        raise ExportError(f"dtype is {dtype}; pass one of {', '.join(map(str, DTYPES))}")
    if opset not in OPSETS:
        raise ExportError(f"opset is {opset}; pass {OPSETS.start} to {OPSETS.stop - 1}")
    dtype_name = str(dtype).removeprefix("torch.")
    request = Request(form, folding, target, length, dtype_name)
    layers = recurrent_layers(model)
    if state not in (OPTIONAL, REQUIRED):
        raise ExportError(f"state is {state!r}; pass {OPTIONAL} or {REQUIRED}")
    _check_stored(weights, activations, dtype)
    if calibration is not None and weights != INT8:
        raise ExportError(
            f"weights is {weights!r} with calibration data, which choose how weights are rounded "
            "to int8; pass weights int8, or leave them out"
        )
    calibrated = None if calibration is None else calibrate(model, calibration, merge_tolerance)
    approximation = Approximation(merge_tolerance, weights, activations, calibrated)
    folded = fold_layers(model, dtype, approximation)
    modules = [m for m in recurrent_modules(folded).values() if isinstance(m, FoldedBNLSTM)]
    for entry, module in zip(layers, modules, strict=True):
        module.choose(request, entry.name)
    layers = tuple(map(_with_streams, layers, modules))
    choices = {
        f"{entry.value_name('')}{suffix}": choice
        for entry, module in zip(layers, modules, strict=True)
        for suffix, choice in module.choices.items()
    }
    if all(choice.form != unrolled.FORM for choice in choices.values()):
        length = None

    # copies, for torch's exporter would take one tensor that is there twice for one input
    examples = tuple(
        x.to("cpu", wide_dtype(dtype) if x.is_floating_point() else x.dtype, copy=True)
        for x in (example_inputs(model, length or 2) if inputs is None else inputs)
    )
    own = own_inputs(model, examples, input_names, dynamic_shapes)
    lifted = Lifted(folded, layers)
    with torch.no_grad():
        outputs, left = lifted([_cast(x, dtype) for x in examples], {})
    reduced = [value._replace(example=_cast(value.example, dtype)) for value in own]
    of_outputs = find_time_axes(lifted, reduced)
    of_inputs = {v.name: a for v in own for a, name in v.axes.items() if name == TIME}
    if length is not None:
        own = [with_fixed_time(value, length) for value in own]
    initial = {
        entry.value_name(name): getattr(module, name)
        for entry, module in zip(layers, modules, strict=True)
        for name in ("initial_h", "initial_c")
    }
    given = [state_input(name, left, initial) for name in lifted.accepts]
    if state == REQUIRED:
        _check_starts_from_zero(given)
    results = result_names(len(outputs), output_names, layers, lifted.accepts)
    metadata = Metadata(
        checkpoint_sha256=state_sha256(model),
        layers=layers,
        form="+".join(sorted({choice.form for choice in choices.values()})),
        folding="+".join(sorted({choice.folding for choice in choices.values()})),
        dtype=dtype_name,
        reason=summarize(choices, request),
        merge_tolerance=merge_tolerance,
        weights=weights,
        activations=activations,
        calibrated=calibrated is not None,
        length=length,
        target=target,
        pads=of_outputs is not None,
        time_axes=of_inputs | {results[i]: axis for i, axis in (of_outputs or {}).items()},
        inlined=inline,
        state=state,
    )
    flat = _Flat(lifted, len(own), [i.name for i in given], dtype)
    graph = _trace(flat, [*own, *given], results, opset)
    defaults = {i.name: i.default for i in given if i.default is not None and state == OPTIONAL}
    proto = finish(graph, metadata, defaults)
    with replacing(path, force=force) as temporary:
        temporary.write_bytes(serialize(proto))
    return metadata


def _check_starts_from_zero(given: Sequence[GraphInput]) -> None:
    for value in given:
        if not value.name.endswith("lengths") and value.default is not None and value.default.any():
            raise ExportError(
                f"{value.name!r} is what the model learned to start from, and a required input has "
                "no place for it; leave it optional"
            )


def _check_stored(weights: str | None, activations: str | None, dtype: torch.dtype) -> None:
    if weights is not None and weights not in STORED:
        raise ExportError(
            f"weights is {weights!r}; pass one of {', '.join(STORED)}, or leave it out"
        )
    if weights is not None and dtype != torch.float32:
        raise ExportError(
            f"weights is {weights!r} and dtype {str(dtype).removeprefix('torch.')}: weights are "
            "stored so in graphs of float32; leave one of them out"
        )
    if activations not in (None, INT8):
        raise ExportError(f"activations is {activations!r}; pass {INT8}, or leave it out")
    if activations is not None and weights != INT8:
        raise ExportError(
            f"activations is {activations!r} and weights is {weights!r}: integers are multiplied "
            "with integers; pass weights int8, too"
        )


def approximation_of(metadata: Metadata) -> Approximation:
    """Return what a file changes of the fold on purpose."""
    return Approximation(metadata.merge_tolerance, metadata.weights, metadata.activations)


def calibrate(
    model: nn.Module, batches: Iterable[object], merge_tolerance: float = 0.0
) -> dict[str, Calibrated]:
    """Round the weights of a model's BNLSTM layers to int8 for what they meet on data.

    Args:
        model: Any module that holds BNLSTM layers. It is copied, not changed, and run in float64.
        batches: See `export`.
        merge_tolerance: As the export's.

    Returns:
        The weights, by path and suffix of each layer and direction.

    Raises:
        FoldError: There are no data, or they are not finite.
        InputError: A minibatch is no input of the model's.
    """
    folded = fold_layers(model, torch.float64, Approximation(merge_tolerance))
    modules = {n: m for n, m in folded.named_modules() if isinstance(m, FoldedBNLSTM)}
    for module in modules.values():
        module.folded = module.folded.map(Observed.of)
    with torch.no_grad(), np.errstate(over="ignore", invalid="ignore"):
        for batch in batches:  # what is too large is found below
            _run_batch(folded, batch, pairs=isinstance(model, BNLSTM | BNLSTMModel))
    return {
        name + suffix: round_direction(direction, direction.moments)
        for name, module in modules.items()
        for suffix, direction in module.directions()
        if isinstance(direction, Observed)
    }


def _run_batch(model: nn.Module, batch: object, *, pairs: bool) -> None:
    """Run the model in float64; a pair is an input and its lengths, else arguments are a tuple."""
    given = batch if isinstance(batch, tuple | list) else [batch]
    arguments = [value for value in given if isinstance(value, Tensor)]
    if len(arguments) < len(given) or (pairs and len(arguments) > 2):
        raise InputError(
            f"a minibatch of the calibration data is {type(batch).__name__}; pass a tensor, or a "
            "tuple of them: an input and its lengths, or the arguments of a model of your own"
        )
    tensors = [_cast(value, torch.float64) for value in arguments]
    try:
        if pairs and len(tensors) == 2:
            model(tensors[0], lengths=tensors[1])
        else:
            model(*tensors)
    except (RuntimeError, ValueError, TypeError) as error:  # of torch, and of numpy
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise InputError(
            f"the model cannot be run on calibration data of shape {shapes}: {error}"
        ) from error


def fold_layers(
    model: nn.Module, dtype: torch.dtype, approximation: Approximation = EXACT
) -> nn.Module:
    """Return a copy of `model` on the CPU, in evaluation, every BNLSTM a FoldedBNLSTM.

    Raises:
        FoldError: Statistics or weights cannot be folded, or the tolerance is negative.
    """
    if isinstance(model, BNLSTM):
        return FoldedBNLSTM(model, dtype, approximation=approximation).eval()
    folded = copy.deepcopy(model).eval().to("cpu", dtype)
    for name, module in model.named_modules():
        if isinstance(module, BNLSTM):
            replacement = FoldedBNLSTM(module, dtype, approximation=approximation, path=name)
            folded.set_submodule(name, replacement.eval())
    return folded


def _with_streams(entry: RecurrentLayers, module: FoldedBNLSTM) -> RecurrentLayers:
    factored = all(choice.folding == FACTORED for choice in module.choices.values())
    return replace(entry, streams=entry.streams and factored)


class _Flat(nn.Module):
    """`Lifted` with all values in one flat list, in the order and the dtypes of the graph."""

    def __init__(
        self, lifted: Lifted, num_inputs: int, given: list[str], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.lifted = lifted
        self.num_inputs = num_inputs
        self.given = given
        self.dtype = dtype

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.given, values[self.num_inputs :], strict=True))
        inputs = [_cast(value, self.dtype) for value in values[: self.num_inputs]]
        outputs, left = self.lifted(inputs, given)
        wide = wide_dtype(self.dtype)
        return (*(_cast(output, wide) for output in outputs), *left.values())


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def _trace(
    module: _Flat, inputs: Sequence[GraphInput], output_names: list[str], opset: int
) -> ir.Model:
    """Run torch's exporter.

    Raises:
        ExportError: It fails, or an axis that must be dynamic came out fixed.
    """
    try:
        with quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                module,
                tuple(i.example for i in inputs),
                dynamo=True,
                dynamic_shapes=(tuple(dict(i.axes) for i in inputs),),
                input_names=[i.name for i in inputs],
                output_names=output_names,
                opset_version=opset,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        cause = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ExportError(f"torch cannot export the model: {cause}") from error
    assert program is not None
    check_dynamic(program.model, {i.name: i.axes for i in inputs})
    return program.model


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter's remarks on itself (its own deprecations, no torchvision) from users."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
