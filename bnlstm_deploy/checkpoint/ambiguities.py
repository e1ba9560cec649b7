"""What the keys of a checkpoint cannot tell, tried one after the other against a recording."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from bnlstm_deploy.checkpoint.construct import build
from bnlstm_deploy.checkpoint.layout import GATES, Layout
from bnlstm_deploy.checkpoint.match import Match, keys_of
from bnlstm_deploy.checkpoint.recorded import Agreement, Array, Recording, compare, time_major
from bnlstm_deploy.errors import BnlstmError
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.normalizations import NormPath

EPS = (1e-3, 1e-4, 1e-5, 1e-6)
FORGET_BIASES = (0.0, 1.0)
MOST_CHANGES = 3
"""How many readings may be wrong at once."""

SHORT, FEW = 6, 2
"""Timesteps and streams on which a reading is tried before the whole recording."""


@dataclass(frozen=True)
class Reading:
    """A checkpoint read in another way than its layout says."""

    changes: tuple[str, ...]
    """In words: `gate order ifog`."""
    match: Match
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Fit:
    """A reading that meets a recording."""

    reading: Reading
    agreement: Agreement


Change = tuple[str, Callable[[Reading], Reading]]


def find_fit(
    found: Match,
    tensors: Mapping[str, Tensor],
    recording: Recording,
    head: BNLSTMModel | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fit | None:
    """Search the known ambiguities for a reading of a checkpoint that meets a recording.

    Tried are gate orders, interleaved gates, transposed input weights, eps, a forget bias at run
    time, biases inside and outside of normalizations, cell normalizations that are stored and not
    applied, and normalizations shared by both directions; one change first, then up to three at
    once.

    Args:
        found: The checkpoint as its layout reads it, which does not meet the recording.
        tensors: The checkpoint.
        recording: The recording.
        head: A model with the head that the recorded output went through.
        progress: Called with the number of readings tried and of all.

    Returns:
        The fit with the fewest changes, or None.
    """
    start = Reading((), found, tensors)
    readings = list(_readings(start, _kinds(start)))
    for done, reading in enumerate(readings):
        if progress is not None:
            progress(done, len(readings))
        fit = _try(reading, head, recording)
        if fit is not None:
            return fit
    return None


def _readings(start: Reading, kinds: list[list[Change]]) -> Iterator[Reading]:
    for count in range(1, MOST_CHANGES + 1):
        for chosen in itertools.combinations(kinds, count):
            for changes in itertools.product(*chosen):
                reading = start
                for words, apply in changes:
                    changed = apply(reading)
                    reading = replace(changed, changes=(*reading.changes, words))
                yield reading


def _kinds(start: Reading) -> list[list[Change]]:
    """Return the changes to try, those that exclude each other in one list."""
    layout = start.match.layout
    weights = layout.weights
    orders = ["".join(order) for order in itertools.permutations(GATES)]
    together = "not interleaved" if weights.interleaved else "interleaved unit by unit"
    kinds = [
        [
            (f"gate order {order}", _table("weights", gates=order))
            for order in orders
            if order != weights.gates
        ],
        [
            (f"eps {eps:g}", _norms(layout.normalization, eps=eps))
            for eps in EPS
            if {eps} != {norm.eps for norm in layout.normalization.values()}
        ],
        [
            (f"{bias:g} added to the forget gate", _table("bias", forget=bias))
            for bias in FORGET_BIASES
            if bias != layout.bias.forget
        ],
        [(f"gates {together}", _table("weights", interleaved=not weights.interleaved))],
    ]
    kinds += [
        [
            (
                f"the {path} bias {'outside' if path in layout.bias.inside else 'inside'} its "
                "normalization",
                _move_bias(path),
            )
        ]
        for path, keys in (("input", layout.bias.keys), ("hidden", layout.bias.hidden))
        if keys and start.match.has(path)
    ]
    cell = layout.normalization.get("cell")
    if cell is not None and start.match.has("cell"):
        words = (
            "the cell normalization ignored" if cell.applied else "the cell normalization applied"
        )
        kinds.append([(words, _norms(("cell",), applied=not cell.applied))])
    if len(start.match.directions) == 2:
        kinds.append([("normalizations shared by both directions", _share_directions)])
    if any(start.tensors[key].shape[0] == start.tensors[key].shape[1] for key in _inputs(start)):
        kinds.append([("input weights transposed", _transpose)])
    return [kind for kind in kinds if kind]


def _try(reading: Reading, head: BNLSTMModel | None, recording: Recording) -> Fit | None:
    """Return the fit if a reading meets the recording: a part of it first, then all."""
    try:
        model = _with(build(reading.match, reading.tensors), head)
        for axes, whole in time_major(model, recording):
            if compare(model, _part(model, whole), axes).holds:
                agreement = compare(model, whole, axes)
                if agreement.holds:
                    return Fit(reading, agreement)
    except BnlstmError:  # this reading contradicts the arrays' shapes
        return None
    return None


def _with(rnn: BNLSTM, head: BNLSTMModel | None) -> BNLSTM | BNLSTMModel:
    if head is None:
        return rnn
    model = BNLSTMModel(rnn, head.head.out_features, head.pooling).to(head.head.weight.dtype)
    model.head.load_state_dict(head.head.state_dict())
    return model


def _part(model: BNLSTM | BNLSTMModel, recording: Recording) -> Recording:
    """Return a few streams, and their first timesteps where these do not depend on the rest."""
    rnn = model.rnn if isinstance(model, BNLSTMModel) else model
    every = recording.output.ndim == 3
    time = SHORT if every and not rnn.bidirectional else len(recording.x)

    def cut(array: Array | None) -> Array | None:
        return None if array is None else array[:time, :FEW] if every else array[:FEW]

    lengths = None if recording.lengths is None else np.minimum(recording.lengths[:FEW], time)
    states = {
        name: None if state is None else state[:, :FEW]
        for name in ("initial_h", "initial_c")
        for state in [getattr(recording, name)]
    }
    return Recording(
        x=recording.x[:time, :FEW],
        output=cut(recording.output),  # type: ignore[arg-type]
        output_fp64=cut(recording.output_fp64),
        lengths=lengths,
        **states,
    )


def _table(name: str, **values: object) -> Callable[[Reading], Reading]:
    """Return a change of the fields of a table in the layout."""

    def change(reading: Reading) -> Reading:
        layout = reading.match.layout
        table = replace(getattr(layout, name), **values)
        return _with_layout(reading, replace(layout, **{name: table}))

    return change


def _norms(paths: Iterable[NormPath], **values: object) -> Callable[[Reading], Reading]:
    """Return a change of the same fields of several normalizations."""

    def change(reading: Reading) -> Reading:
        norms = reading.match.layout.normalization
        changed = {path: replace(norms[path], **values) for path in paths}  # type: ignore[arg-type]
        return _with_layout(
            reading, replace(reading.match.layout, normalization={**norms, **changed})
        )

    return change


def _move_bias(path: str) -> Callable[[Reading], Reading]:
    def change(reading: Reading) -> Reading:
        inside = {*reading.match.layout.bias.inside} ^ {path}
        return _table("bias", inside=tuple(sorted(inside)))(reading)

    return change


def _share_directions(reading: Reading) -> Reading:
    match = reading.match
    keys = dict(match.keys)
    for role in keys:
        if role.partition(".")[0] in match.layout.normalization:
            keys[role] = {
                (layer, name): match.get(role, (layer, match.directions[0]))
                for layer, name in match.places()
            }
    return replace(reading, match=replace(match, keys=keys))


def _transpose(reading: Reading) -> Reading:
    turned = {key: reading.tensors[key].T for key in _inputs(reading)}
    return replace(reading, tensors={**reading.tensors, **turned})


def _with_layout(reading: Reading, layout: Layout) -> Reading:
    return replace(reading, match=replace(reading.match, layout=layout))


def _inputs(reading: Reading) -> list[str]:
    """Return the keys of the input weights."""
    places = reading.match.keys["weights.input"].values()
    return [reading.match.prefix + key for steps in places for key in keys_of(steps)]
