"""Native checkpoints: a folder with config.json and model.safetensors."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from bnlstm_deploy.atomic import check_free, check_other, replacing
from bnlstm_deploy.checkpoint.read import read_floats, read_tensors
from bnlstm_deploy.codec import read_json
from bnlstm_deploy.errors import BnlstmError, CheckpointError, InputError
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel, NormPath, Pooling

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FORMAT_VERSION = 1
MODEL_TYPE = "bnlstm"


@dataclass(frozen=True)
class _Layers:
    """The constructor's arguments of BNLSTM, under "rnn"."""

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    max_length: int
    normalize: tuple[NormPath, ...]
    beta: tuple[NormPath, ...]
    eps: float | dict[NormPath, float]
    momentum: float | None
    gamma_init: float
    # What the first checkpoints of format 1 lack has the constructor's defaults.
    shared_statistics: tuple[NormPath, ...] = ()
    affine_per_step: tuple[NormPath, ...] = ()
    sequence_wise: bool = False
    learn_initial_state: bool = False


@dataclass(frozen=True)
class _Head:
    """The constructor's arguments of BNLSTMModel, under "head"."""

    out_features: int
    pooling: Pooling


@dataclass(frozen=True)
class _Config:
    """The content of config.json."""

    format_version: int
    model_type: str
    rnn: _Layers
    head: _Head | None


def save_checkpoint(
    model: BNLSTM | BNLSTMModel,
    folder: str | Path,
    *,
    force: bool = False,
    exist_ok: bool = False,
) -> None:
    """Write `config.json` and `model.safetensors` into `folder`, which is created if need be.

    Args:
        model: What to save.
        folder: Where to.
        force: Whether to replace a checkpoint that is there.
        exist_ok: The same, by the name that `os.makedirs` has for it.

    Raises:
        InputError: The folder holds a checkpoint already and neither is set, or cannot be made.
    """
    folder = Path(folder)
    force = force or exist_ok
    check_folder(folder, force=force)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made ({error.strerror}); choose a folder inside of one that may "
            "be written to"
        ) from error
    rnn = model.rnn if isinstance(model, BNLSTMModel) else model
    layers = _Layers(**{field.name: getattr(rnn, field.name) for field in fields(_Layers)})
    head = None
    if isinstance(model, BNLSTMModel):
        head = _Head(model.head.out_features, model.pooling)
    config = asdict(_Config(FORMAT_VERSION, MODEL_TYPE, layers, head))
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    with replacing(folder / WEIGHTS, force=force) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors))
    with replacing(folder / CONFIG, force=force) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n")


def check_folder(folder: Path, *, force: bool, inputs: Iterable[Path | None] = ()) -> None:
    """Check that a checkpoint may be written into a folder.

    Args:
        folder: The folder, there or not.
        force: Whether a checkpoint in it is replaced.
        inputs: What the work reads whose result it is.

    Raises:
        InputError: It holds a checkpoint already, or what is read; or it is no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is no folder; choose one, there or not")
    for path in (folder / CONFIG, folder / WEIGHTS):
        check_free(path, force=force)
        check_other(path, inputs)


def load_native(path: Path, config: Path | None = None) -> BNLSTM | BNLSTMModel:
    """Load a native checkpoint, in evaluation mode and in the dtype of its tensors.

    Args:
        path: A folder with `config.json` and `model.safetensors`, or a state dict (`.safetensors`
            or a file that `torch.save` wrote).
        config: The configuration that belongs to a state dict; by default the `config.json`
            beside it.

    Raises:
        CheckpointError: A file is missing or damaged, the configuration has an unknown or missing
            field, or the tensors are not those which the configuration calls for, or not finite.
    """
    weights = path / WEIGHTS if path.is_dir() else path
    tensors = read_tensors(weights)
    config = weights.parent / CONFIG if config is None else config
    with torch.device("meta"):  # which takes no memory, whatever the sizes
        model = _build(config, len(tensors))
    expected = model.state_dict()
    _check_tensors(weights, tensors, expected)
    dtypes, counts = (
        {t.dtype for name, t in tensors.items() if expected[name].is_floating_point() == floats}
        for floats in (True, False)
    )
    if dtypes not in ({torch.float32}, {torch.float64}) or not counts <= {torch.int64}:
        raise CheckpointError(
            f"{weights} holds tensors of {sorted({str(t.dtype) for t in tensors.values()})}; they "
            "must be all float32 or all float64, and counts of minibatches int64"
        )
    floats = {n: read_floats(n, t) for n, t in tensors.items() if t.is_floating_point()}
    damaged = [name for name, t in floats.items() if not t.isfinite().all()]
    if damaged:
        raise CheckpointError(
            f"{weights} holds NaN or infinity in {', '.join(damaged[:8])}; its training diverged, "
            "or the file is damaged"
        )
    model.load_state_dict({n: t.detach() for n, t in tensors.items()}, assign=True)
    return model.requires_grad_().eval()


def _build(path: Path, most_layers: int) -> BNLSTM | BNLSTMModel:
    """Build the model that a config.json describes, of no more layers than that."""
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist; a native checkpoint needs it to tell sizes and eps. Write it "
            "with save_checkpoint, or name the file as its config"
        )
    config = read_json(path, _Config, CheckpointError)
    if (config.format_version, config.model_type) != (FORMAT_VERSION, MODEL_TYPE):
        raise CheckpointError(
            f"{path} says format_version {config.format_version!r} and model_type "
            f"{config.model_type!r}; this version reads {FORMAT_VERSION} and {MODEL_TYPE!r}"
        )
    if config.rnn.num_layers > most_layers:
        raise CheckpointError(
            f"{path} says num_layers {config.rnn.num_layers}, and the file beside it holds "
            f"{most_layers} tensors; they do not belong together"
        )
    try:
        rnn = BNLSTM(**vars(config.rnn))
        return rnn if config.head is None else BNLSTMModel(rnn, **vars(config.head))
    except (BnlstmError, RuntimeError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path} describes no model that can be built: {error}") from error


def _check_tensors(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Compare names and shapes with the expected ones, and report all differences at once."""
    groups = [
        [f"missing: {name}" for name in expected if name not in tensors],
        [f"unknown: {name}" for name in tensors if name not in expected],
        [
            f"{name} has shape {tuple(tensor.shape)}, the configuration gives "
            f"{tuple(expected[name].shape)}"
            for name, tensor in tensors.items()
            if name in expected and tensor.shape != expected[name].shape
        ],
    ]
    if any(groups):
        lines = [line for group in groups for line in _shortened(group)]
        text = "\n  ".join(lines)
        raise CheckpointError(
            f"the tensors in {path} are not those of its configuration:\n  {text}"
        )


def _shortened(lines: list[str], most: int = 8) -> list[str]:
    hidden = len(lines) - most
    return [*lines[:most], f"and {hidden} more of these"] if hidden > 0 else lines
