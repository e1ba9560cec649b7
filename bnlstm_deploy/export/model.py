"""export(): any torch model that holds BNLSTM layers becomes an ONNX file."""

import contextlib
import copy
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnlstm_deploy.atomic import replacing
from bnlstm_deploy.checkpoint.digest import state_sha256
from bnlstm_deploy.errors import ExportError
from bnlstm_deploy.export.folded import FoldedBNLSTM
from bnlstm_deploy.export.forms import scan
from bnlstm_deploy.export.graph import check_dynamic, finish
from bnlstm_deploy.export.lifted import Lifted, recurrent_layers
from bnlstm_deploy.metadata import Metadata
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel

DTYPES = (torch.float32, torch.float64)
OPSETS = range(18, 24)
DEFAULT_OPSET = 20
NO_LENGTH = 2**63 - 1
"""What the graph's input `lengths` is when left out: every stream is as long as the input."""

DynamicShapes = Sequence[Mapping[int, str]]
"""For each input, the names of its dynamic axes."""


class _Input(NamedTuple):
    """An input of the graph."""

    name: str
    example: Tensor
    axes: Mapping[int, str]
    """Names of the dynamic axes."""
    default: NDArray[np.generic] | None = None
    """What the input is when left out; None if it must be given."""


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
) -> Metadata:
    """Fold the BNLSTM layers of a model and write it as one ONNX file.

    The graph computes what `model` computes in evaluation. Besides the model's own inputs and
    outputs it has, for its BNLSTM, the optional inputs

        initial_h, initial_c    (num_layers * num_directions, N, H); zeros if left out
        lengths                 (N,) int64; the input's length if left out
        start_step              (N,) int64; 0 if left out. Not with two directions

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
        dtype: float32 or float64. The fold is computed in float64 and rounded once.
        opset: ONNX opset, 18 to 23.
        force: Whether to replace an existing file.

    Returns:
        The metadata that was written into the file.

    Raises:
        ExportError: The file exists, `model` holds no BNLSTM or cannot be exported, an argument
            is out of range, or an axis that must be dynamic came out fixed.
        FoldError: Statistics or weights cannot be folded.
    """
    path = Path(path)
    check_destination(path, force=force)
    if dtype not in DTYPES:
        raise ExportError(f"dtype is {dtype}; pass one of {', '.join(map(str, DTYPES))}")
    if opset not in OPSETS:
        raise ExportError(f"opset is {opset}; pass {OPSETS.start} to {OPSETS.stop - 1}")
    layers = recurrent_layers(model)
    examples = tuple(
        x.to("cpu", dtype) if x.is_floating_point() else x.cpu()
        for x in (_example_inputs(model) if inputs is None else inputs)
    )
    lifted = Lifted(fold_layers(model, dtype), layers)
    with torch.no_grad():
        outputs, left = lifted(examples, {})
    own = _own_inputs(model, examples, input_names, dynamic_shapes)
    state = [_state_input(name, left) for name in lifted.accepts]
    results = _output_names(len(outputs), output_names)
    for entry in layers:
        results += [entry.value_name("h_n"), entry.value_name("c_n")]
        if entry.value_name("start_step") in lifted.accepts:
            results.append(entry.value_name("next_step"))
    metadata = Metadata(
        checkpoint_sha256=state_sha256(model),
        layers=layers,
        form=scan.FORM,
        folding="factored",
        dtype=str(dtype).removeprefix("torch."),
    )
    graph = _trace(_Flat(lifted, len(own), [i.name for i in state]), [*own, *state], results, opset)
    defaults = {i.name: i.default for i in state if i.default is not None}
    proto = finish(graph, metadata, defaults)
    with replacing(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    return metadata


def fold_layers(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of `model` on the CPU, in evaluation, every BNLSTM a FoldedBNLSTM.

    Raises:
        FoldError: Statistics or weights cannot be folded.
    """
    if isinstance(model, BNLSTM):
        return FoldedBNLSTM(model, dtype).eval()
    folded = copy.deepcopy(model).eval().to("cpu", dtype)
    for name, module in model.named_modules():
        if isinstance(module, BNLSTM):
            folded.set_submodule(name, FoldedBNLSTM(module, dtype).eval())
    return folded


def check_destination(path: Path, *, force: bool) -> None:
    """Check that a file may be written to `path`.

    Raises:
        ExportError: It exists and `force` is not set, or its folder does not exist.
    """
    if path.exists() and not force:
        raise ExportError(f"{path} exists; choose another name, or replace it with force (--force)")
    if not path.parent.is_dir():
        raise ExportError(f"the folder {path.parent} does not exist; create it first")


class _Flat(nn.Module):
    """`Lifted` with all values in one flat list, in the order of the graph."""

    def __init__(self, lifted: Lifted, num_inputs: int, given: list[str]) -> None:
        super().__init__()
        self.lifted = lifted
        self.num_inputs = num_inputs
        self.given = given

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.given, values[self.num_inputs :], strict=True))
        outputs, left = self.lifted(values[: self.num_inputs], given)
        return (*outputs, *left.values())


def _trace(
    module: _Flat, inputs: Sequence[_Input], output_names: list[str], opset: int
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


def _example_inputs(model: nn.Module) -> tuple[Tensor]:
    rnn = model.rnn if isinstance(model, BNLSTMModel) else model
    if not isinstance(rnn, BNLSTM):
        raise ExportError(
            f"a {type(model).__name__} needs example inputs: export(model, path, (x,)), with a "
            "batch and a time of at least 2"
        )
    return (torch.zeros(2, 2, rnn.input_size),)


def _own_inputs(
    model: nn.Module,
    examples: Sequence[Tensor],
    names: Sequence[str] | None,
    shapes: DynamicShapes | None,
) -> list[_Input]:
    """Describe the inputs that `model` has itself."""
    if names is None:
        parameters = list(inspect.signature(model.forward).parameters.values())
        names = [parameter.name for parameter in parameters[: len(examples)]]
    if shapes is None:
        first = next(m for m in model.modules() if isinstance(m, BNLSTM))
        leading = ("batch", "time") if first.batch_first else ("time", "batch")
        shapes = [
            dict(enumerate(leading)) if example.ndim > 1 else dict(enumerate(["batch"]))
            for example in examples
        ]
    if not len(examples) == len(names) == len(shapes):
        raise ExportError(
            f"{len(examples)} inputs, {len(names)} input names and {len(shapes)} dynamic shapes; "
            "pass one name and one shape for each input"
        )
    return [_Input(*fields) for fields in zip(names, examples, shapes, strict=True)]


def _state_input(name: str, left: Mapping[str, Tensor]) -> _Input:
    """Describe an input for the state of recurrent layers, given the states that they left.

    Its batch axis has a name of its own: left out, it is 1 whatever the batch is, and ONNX Runtime
    takes axes of one name for equal when it plans memory.
    """
    prefix, dot, kind = name.rpartition(".")
    h = left[f"{prefix}{dot}h_n"]
    rows, batch, hidden = h.shape
    if kind in ("initial_h", "initial_c"):
        default = np.zeros((rows, 1, hidden), h.numpy().dtype)
        return _Input(name, torch.zeros_like(h), {1: f"{name}_batch"}, default)
    default = np.array([NO_LENGTH if kind == "lengths" else 0])
    return _Input(name, torch.zeros(batch, dtype=torch.int64), {0: f"{name}_batch"}, default)


def _output_names(number: int, names: Sequence[str] | None) -> list[str]:
    if names is None:
        return ["output"] if number == 1 else [f"output_{i}" for i in range(number)]
    if len(names) != number:
        raise ExportError(
            f"{len(names)} output names for {number} outputs (final states have names of their own)"
        )
    return list(names)
