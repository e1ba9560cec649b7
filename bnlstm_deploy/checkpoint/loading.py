"""From a file of anyone's BN-LSTM to a training model of ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bnlstm_deploy.checkpoint.construct import build
from bnlstm_deploy.checkpoint.layout import REFUSED, Layout
from bnlstm_deploy.checkpoint.match import Match, match, shortened
from bnlstm_deploy.checkpoint.own_format import CONFIG, load_native
from bnlstm_deploy.checkpoint.parse import find_layout, shipped_layouts
from bnlstm_deploy.checkpoint.read import check_floats, read_container
from bnlstm_deploy.errors import CheckpointError, LayoutError
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel, Pooling

CANDIDATES_SHOWN = 3


@dataclass(frozen=True)
class Imported:
    """A model from a checkpoint of other code, and what was taken for granted."""

    model: BNLSTM | BNLSTMModel
    layout: Layout
    match: Match
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...]
    """What was found where, and left over."""
    assumptions: tuple[str, ...]
    """What the layout says and no key confirms."""


def load(
    path: str | Path,
    *,
    config: str | Path | None = None,
    layout: str | Path | Layout | None = None,
    prefix: str | None = None,
    head: Pooling | None = None,
    batch_first: bool = False,
) -> BNLSTM | BNLSTMModel:
    """Load a checkpoint, in evaluation mode.

    A native one is a folder with `config.json` and `model.safetensors`, or a state dict with its
    `config.json` beside it or named by `config`. Anything else is imported, with the arguments of
    `import_checkpoint`.

    Raises:
        CheckpointError: A file is missing or damaged, or its tensors are not those which its
            configuration or layout calls for, or not finite.
    """
    path = Path(path)
    if is_native(path, config, layout):
        if prefix is not None or head is not None or batch_first:
            raise CheckpointError(
                f"{path} is a native checkpoint, whose config.json says all; prefix, head and "
                "batch_first are for state dicts of other code"
            )
        return load_native(path, None if config is None else Path(config))
    imported = import_checkpoint(
        path, layout=layout, prefix=prefix, head=head, batch_first=batch_first
    )
    return imported.model


load_checkpoint = load
"""Its name in version 0.1."""


def is_native(
    path: Path, config: str | Path | None = None, layout: str | Path | Layout | None = None
) -> bool:
    """Return whether a checkpoint is described by a config.json instead of a layout.

    Raises:
        CheckpointError: There is no such file, or both a configuration and a layout are given.
    """
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; pass a checkpoint folder or a state dict")
    if config is not None and layout is not None:
        raise CheckpointError("both a config and a layout are given; pass the one that applies")
    if layout is not None:
        return False
    return config is not None or path.is_dir() or (path.parent / CONFIG).exists()


def import_checkpoint(
    path: str | Path,
    *,
    layout: str | Path | Layout | None = None,
    prefix: str | None = None,
    head: Pooling | None = None,
    batch_first: bool = False,
) -> Imported:
    """Import the recurrent layers of a checkpoint that other code trained.

    Args:
        path: The file; see `read_container`.
        layout: A layout, the name of a shipped one, or a `.toml` file. By default the one shipped
            layout that the keys match.
        prefix: What precedes the recurrent layers' keys; found by default.
        head: Keep the one Linear beside the recurrent layers, reading the `"last"` hidden state or
            the output at `"every"` timestep.
        batch_first: Whether input and output are (N, T, .) instead of (T, N, .).

    Raises:
        LayoutError: No layout matches, several do, or the one given does not; or the model cannot
            be converted.
        CheckpointError: The file cannot be read, or its arrays contradict each other.
    """
    path = Path(path)
    container = read_container(path)
    found = recognize(container.tensors, layout, prefix)
    rnn = build(found, container.tensors, batch_first=batch_first)
    notes = [f"{path.name}: layout {found.layout.name}, {found.layout.title}"]
    if container.nested:
        beside = f"; not read: {', '.join(map(repr, container.others))}" if container.others else ""
        notes.append(f"nested under {container.nested!r}{beside}")
    if found.prefix:
        notes.append(f"prefix {found.prefix!r}")
    model: BNLSTM | BNLSTMModel = rnn
    left_over = found.left_over
    linear = _linear(found, container.tensors, rnn)
    if head is not None:
        model = _with_head(rnn, linear, container.tensors, head, left_over)
        left_over = [key for key in left_over if key.rpartition(".")[0] != linear]
    if left_over:
        hint = "; keep it as head 'last' or 'every'" if linear and head is None else ""
        shape = tuple(container.tensors[f"{linear}.weight"].shape) if hint else ()
        notes.append(
            f"left over: {shortened(left_over)}"
            + (f" (a Linear of {shape[1]} to {shape[0]} features{hint})" if hint else "")
        )
    return Imported(
        model.eval(), found.layout, found, container.tensors, tuple(notes), assumptions(found)
    )


def recognize(
    tensors: Mapping[str, Tensor],
    layout: str | Path | Layout | None = None,
    prefix: str | None = None,
) -> Match:
    """Match a checkpoint with a layout, or find the one shipped layout that it matches.

    Raises:
        LayoutError: None matches, several do, or the model cannot be converted.
    """
    if layout is None:
        found = _only_match(tensors, prefix)
    else:
        chosen = layout if isinstance(layout, Layout) else find_layout(layout)
        found = match(chosen, tensors, prefix)
        if not found.complete and not found.refused:
            raise LayoutError(
                f"the checkpoint does not match the layout {chosen.name}. {found.problems()}"
                + _no_statistics(found)
            )
    reasons = [name for name, signs in found.layout.refuse.items() if signs is True]
    reasons += [sign.partition(":")[0] for sign in found.refused]
    if reasons:
        signs = f" ({shortened(found.refused)})" if found.refused else ""
        raise LayoutError(
            f"this model cannot be converted{signs}: "
            + "; ".join(REFUSED[reason] for reason in dict.fromkeys(reasons))
        )
    return found


def assumptions(found: Match) -> tuple[str, ...]:
    """Return what the layout says that the keys and shapes of a checkpoint cannot confirm."""
    layout = found.layout
    lines = [f"gate order {','.join(layout.weights.gates)}"]
    if layout.weights.interleaved:
        lines.append("the gates of each unit interleaved")
    used = {p: n for p, n in layout.normalization.items() if found.has(p)}
    for path, norm in used.items():
        if not norm.applied:
            lines.append(f"the {path} normalization is stored but never applied")
        if not norm.first_step:
            lines.append(f"the {path} path contributes nothing at step 0")
    eps = {path: norm.eps for path, norm in used.items() if norm.applied}
    if len(set(eps.values())) == 1:
        lines.append(f"eps {next(iter(eps.values())):g}")
    elif eps:
        lines.append("eps " + ", ".join(f"{value:g} ({path})" for path, value in eps.items()))
    lines.append(f"{layout.bias.forget:g} added to the forget gate at run time")
    return tuple(lines)


def _only_match(tensors: Mapping[str, Tensor], prefix: str | None) -> Match:
    """Return the match of the one shipped layout that fits."""
    matches: list[Match] = []
    several: list[LayoutError] = []
    for layout in shipped_layouts().values():
        try:
            matches.append(match(layout, tensors, prefix))
        except LayoutError as error:
            several.append(error)
    fitting = [found for found in matches if found.complete or found.refused]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(found.layout.name for found in fitting)
        raise LayoutError(
            f"the checkpoint matches several layouts: {names}. Choose one as its layout; "
            "a recorded input and output tell which (compare_recording, convert --check)"
        )
    near = sorted(matches, key=lambda m: (not m.num_layers, m.distance))
    if several and not near[0].num_layers:
        raise several[0]
    near = [m for m in near if m.num_layers] or near
    lines = "\n  ".join(f"{m.layout.name}: {m.problems()}" for m in near[:CANDIDATES_SHOWN])
    raise LayoutError(
        f"no known layout matches the {len(tensors)} keys of the checkpoint "
        f"({shortened(sorted(tensors))}). Nearest:\n  {lines}\n"
        "Describe it in a layout of your own, mine.toml, and pass that; bnlstm-deploy layouts "
        "show NAME prints one to start from" + _no_statistics(near[0])
    )


def _no_statistics(found: Match) -> str:
    """Say so where population statistics are all that is missing."""
    if found.unknown or not found.num_layers:
        return ""
    kinds = {role.partition(".")[2] for role in found.missing.values()}
    if not kinds or not kinds <= {"mean", "var", "std"}:
        return ""
    if any(steps for role, steps in found.keys.items() if role.endswith(".mean")):
        return ""
    return (
        "\nThere are no population statistics. If the source normalizes with those of the batch at "
        f"test time: {REFUSED['batch_statistics']}. Estimate them in the source, then save again"
    )


def _linear(found: Match, tensors: Mapping[str, Tensor], rnn: BNLSTM) -> str | None:
    """Return the module path of the one Linear beside the recurrent layers, if that is all."""
    modules = {key.rpartition(".")[0] for key in found.left_over}
    if len(modules) != 1:
        return None
    (module,) = modules
    if sorted(found.left_over) != [f"{module}.bias", f"{module}.weight"]:
        return None
    weight, bias = tensors[f"{module}.weight"], tensors[f"{module}.bias"]
    features = rnn.hidden_size * rnn.num_directions
    fits = weight.ndim == 2 and weight.shape[1] == features and bias.shape == weight.shape[:1]
    return module if fits else None


def _with_head(
    rnn: BNLSTM,
    linear: str | None,
    tensors: Mapping[str, Tensor],
    pooling: Pooling,
    left_over: list[str],
) -> BNLSTMModel:
    if linear is None:
        raise CheckpointError(
            f"head {pooling!r}: what lies beside the recurrent layers is not one Linear of "
            f"{rnn.hidden_size * rnn.num_directions} features but "
            f"{shortened(left_over) or 'nothing'}. Export the whole model from Python instead "
            "(bnlstm_deploy.replace)"
        )
    weight, bias = tensors[f"{linear}.weight"], tensors[f"{linear}.bias"]
    for name in (f"{linear}.weight", f"{linear}.bias"):
        check_floats(name, tensors[name])
    if torch.float64 in (weight.dtype, bias.dtype):
        rnn.double()
    model = BNLSTMModel(rnn, len(weight), pooling)
    model.head.load_state_dict({"weight": weight, "bias": bias})
    return model
