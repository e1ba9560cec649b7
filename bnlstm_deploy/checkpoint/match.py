"""Which keys of a checkpoint play which role in a layout."""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from bnlstm_deploy.checkpoint.layout import NORM_PATTERNS, Keys, Layout
from bnlstm_deploy.errors import LayoutError

WRAPPERS = ("module", "model", "net", "_orig_mod")
"""What wraps whole models, so that a prefix of these alone says nothing of what lies beside."""

Place = tuple[int | None, str | None]
"""A layer, from 0, and what {direction} stands for; None where a key says neither."""

Gates = dict[str | None, str]
"""Keys by what {gate} stands for; under None where the key has none."""

Steps = dict[int | None, Gates]
"""Keys by step; under None where the key has no {step}."""

NUMBER = "[0-9]{1,9}"
"""A layer or a step."""

MOST_SHOWN = 8


@dataclass
class Match:
    """How the keys of a checkpoint fit a layout."""

    layout: Layout
    prefix: str = ""
    """What precedes every key of the recurrent layers, such as `rnn.`."""
    num_layers: int = 0
    directions: tuple[str, ...] = ()
    keys: dict[str, dict[Place, Steps]] = field(default_factory=dict)
    """For each role, such as `weights.input` or `input.mean`, the keys by layer and direction."""
    missing: dict[str, str] = field(default_factory=dict)
    """Required keys that are not there, and their roles."""
    unknown: list[str] = field(default_factory=list)
    """Keys within the recurrent layers that the layout does not know."""
    left_over: list[str] = field(default_factory=list)
    """Keys beside the recurrent layers: embeddings, heads."""
    refused: list[str] = field(default_factory=list)
    """Keys of what cannot be converted, with the reason's name in front: `peepholes: w_f_diag`."""

    several: list[str] = field(default_factory=list)
    """Keys of alternatives of which another is there, too."""

    @property
    def complete(self) -> bool:
        """Whether all keys are there and none within the layers is unknown."""
        wrong = self.missing or self.unknown or self.several
        return self.num_layers > 0 and not wrong

    def get(self, role: str, place: Place) -> Steps:
        """Return the keys of a role in a layer and direction; empty if it has none there."""
        layer, direction = place
        found = self.keys.get(role, {})
        wider: list[Place] = [place, (layer, None), (None, direction), (None, None)]
        return next((found[p] for p in wider if p in found), {})

    def has(self, path: str) -> bool:
        """Return whether there is any key of a normalization."""
        return any(found for role, found in self.keys.items() if role.startswith(f"{path}."))

    def places(self) -> Iterator[Place]:
        """Yield every layer and direction, in the order of `BNLSTM.directions`."""
        for layer in range(self.num_layers):
            for direction in self.directions:
                yield layer, direction

    @property
    def distance(self) -> float:
        """From 0, everything fits, to 1, nothing does."""
        fitting = sum(len(keys_of(s)) for places in self.keys.values() for s in places.values())
        wrong = len(self.missing) + len(self.unknown)
        return wrong / (wrong + fitting) if wrong else 0.0

    def problems(self) -> str:
        """Return what does not fit, in words."""
        parts = []
        if self.several:
            parts.append(
                f"alternatives that are both there: {shortened(self.several)} (an array a gate is "
                "one pattern, with {gate})"
            )
        if self.missing:
            parts.append(f"missing: {shortened(list(self.missing))}")
        if self.unknown:
            parts.append(f"left over: {shortened(self.unknown)}")
        return "; ".join(parts)


def keys_of(steps: Steps) -> list[str]:
    """Return all keys of a role in a layer and direction, those of a step together."""
    return [key for gates in steps.values() for key in gates.values()]


def shortened(names: list[str]) -> str:
    """Join names with commas, the first few only if they are many."""
    shown = ", ".join(names[:MOST_SHOWN])
    hidden = len(names) - MOST_SHOWN
    return f"{shown} and {hidden} more" if hidden > 0 else shown


def match(layout: Layout, tensors: Mapping[str, Tensor], prefix: str | None = None) -> Match:
    """Assign the keys of a checkpoint to the roles of a layout.

    Args:
        layout: The layout.
        tensors: The checkpoint.
        prefix: The prefix of the recurrent layers' keys; found by default.

    Raises:
        LayoutError: The checkpoint holds several such layers, under different prefixes.
    """
    keys = list(tensors)
    result = Match(layout)
    anchors = _anchors(layout, keys)
    if prefix is not None:
        anchors = {found: places for found, places in anchors.items() if found == prefix}
    if len(anchors) > 1:
        raise LayoutError(
            f"the checkpoint holds several recurrent modules of the layout {layout.name}, under "
            f"the prefixes {', '.join(map(repr, sorted(anchors)))}. Name one as its prefix; to "
            "export them together, export the whole model (bnlstm_deploy.replace swaps them in it)"
        )
    if not anchors:
        result.missing = {_example(layout, layout.weights.hidden): "weights.hidden"}
        return result
    ((result.prefix, places),) = anchors.items()
    layers = {layer or 0 for layer, _ in places}
    result.num_layers = 1 + max(layers)
    if result.num_layers > len(layers):  # there is no end to those that may be missing
        gap = next(layer for layer in itertools.count() if layer not in layers)
        result.missing = {
            result.prefix + _example(layout, layout.weights.hidden, (gap, None)): "weights.hidden"
        }
        return result
    last = max(0 if name is None else layout.directions.index(name) for _, name in places)
    result.directions = layout.directions[: last + 1]
    own = [key.removeprefix(result.prefix) for key in keys if key.startswith(result.prefix)]
    for role, (patterns, norm) in roles(layout).items():
        found, several = _collect(layout, patterns, norm, own)
        result.several += several
        result.keys[role] = {
            place: steps
            for place, steps in found.items()
            if 0 <= (place[0] or 0) < result.num_layers
        }
    result.missing = dict(_missing(result))
    known = {k for places in result.keys.values() for s in places.values() for k in keys_of(s)}
    for reason, signs in layout.refuse.items():
        given_away = [] if isinstance(signs, bool) else _plain(layout, signs, own)
        result.refused += [f"{reason}: {key}" for key in given_away]
        known.update(given_away)
    known.update(_plain(layout, layout.ignore, own))
    _sort_rest(result, tensors, known)
    return result


def roles(layout: Layout) -> dict[str, tuple[Keys, str]]:
    """Return the patterns of every role, and what {norm} stands for in them."""
    table = {
        "weights.input": (layout.weights.input, ""),
        "weights.hidden": (layout.weights.hidden, ""),
        "state.h": (layout.state.h, ""),
        "state.c": (layout.state.c, ""),
    }
    for role, keys in (("bias", layout.bias.keys), ("hidden_bias", layout.bias.hidden)):
        table |= {f"{role}.{number}": ((pattern,), "") for number, pattern in enumerate(keys)}
    for path, norm in layout.normalization.items():
        for role in NORM_PATTERNS:
            table[f"{path}.{role}"] = (getattr(norm, role), norm.norm)
    return {role: (patterns, norm) for role, (patterns, norm) in table.items() if patterns}


def _anchors(layout: Layout, keys: list[str]) -> dict[str, set[Place]]:
    """Return the layers and directions that have a hidden weight, by prefix."""
    found: dict[str, set[Place]] = defaultdict(set)
    for pattern in layout.weights.hidden:
        regex = re.compile(r"(?P<prefix>(?:.*[./])?)" + _regex(layout, pattern, ""))
        for hit in filter(None, map(regex.fullmatch, keys)):
            found[hit["prefix"]].add(_place(layout, hit))
    return found


def _collect(
    layout: Layout, patterns: Keys, norm: str, keys: list[str]
) -> tuple[dict[Place, Steps], list[str]]:
    """Return the keys that match, by layer and direction, and those that others stand in for."""
    found: dict[Place, Steps] = defaultdict(lambda: defaultdict(dict))
    several: list[str] = []
    for pattern in patterns:
        regex = re.compile(_regex(layout, pattern, norm))
        for hit in filter(None, map(regex.fullmatch, keys)):
            groups = hit.groupdict()
            step = groups.get("step")
            gates = found[_place(layout, hit)][None if step is None else int(step)]
            if gates.setdefault(groups.get("gate"), hit[0]) != hit[0]:
                several.append(hit[0])
    return {place: dict(steps) for place, steps in found.items()}, several


def _plain(layout: Layout, patterns: Keys, keys: list[str]) -> list[str]:
    """Return all keys that match any of the patterns."""
    expressions = [re.compile(_regex(layout, pattern, "")) for pattern in patterns]
    return [key for regex in expressions for key in keys if regex.fullmatch(key)]


def _regex(layout: Layout, pattern: str, norm: str) -> str:
    """Return the regular expression of a pattern; what occurs twice must be the same twice."""
    expressions = {"layer": NUMBER, "step": NUMBER} | {
        kind: "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        for kind, names in (("direction", layout.directions), ("gate", layout.weights.names))
    }
    parts = re.split(r"\{(layer|step|direction|norm|gate)\}", pattern.removesuffix("?"))
    regex = re.escape(parts[0])
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        if name == "norm":
            regex += re.escape(norm)
        elif name in expressions:
            regex += f"(?P<{name}>{expressions.pop(name)})"
        else:
            regex += f"(?P={name})"
        regex += re.escape(text)
    return regex


def _place(layout: Layout, hit: re.Match[str]) -> Place:
    groups = hit.groupdict()
    layer = groups.get("layer")
    return None if layer is None else int(layer) - layout.first_layer, groups.get("direction")


def _missing(found: Match) -> Iterator[tuple[str, str]]:
    """Yield every required key that is not there, and its role."""
    layout = found.layout
    most = sum(len(steps) for places in found.keys.values() for steps in places.values())
    last: dict[str, int] = {path: _last_step(found, path) for path in layout.normalization}
    whole = {path for path, norm in layout.normalization.items() if norm.first_step}
    for role, (patterns, norm) in roles(layout).items():
        path, _, kind = role.partition(".")
        if kind == "count" or any(pattern.endswith("?") for pattern in patterns):
            continue
        if path in layout.normalization and _is_left_out(found, path):
            continue
        for place in found.places():
            steps = found.get(role, place)
            expected: Iterable[int | None] = [None]
            if "{step}" in patterns[0]:
                # All are of the same steps, but for those shared over time, and without the first.
                of_path = last.get(path, 0)
                if path in whole and of_path > 0:
                    of_path = max(last[other] for other in whole)
                expected = range(1 + of_path)
                if of_path > most:  # there is no end to those that may be missing
                    expected = [next(step for step in itertools.count() if step not in steps)]
            gates = layout.weights.names if "{gate}" in patterns[0] else [None]
            for step, gate in itertools.product(expected, gates):
                if gate not in steps.get(step, {}):
                    key = _example(layout, patterns, place, step, norm, gate or "")
                    yield found.prefix + key, role


def _last_step(found: Match, path: str) -> int:
    """Return the last step that any array of a normalization is of, in any layer and direction."""
    of_path = [places for role, places in found.keys.items() if role.partition(".")[0] == path]
    every = [step or 0 for places in of_path for steps in places.values() for step in steps]
    return max(every, default=0)


def _is_left_out(found: Match, path: str) -> bool:
    norm = found.layout.normalization[path]  # type: ignore[index]
    return not norm.applied or (norm.optional and not found.has(path))


def _example(
    layout: Layout,
    patterns: Keys,
    place: Place = (0, None),
    step: int | None = 0,
    norm: str = "",
    gate: str = "",
) -> str:
    """Return the key that a pattern stands for."""
    layer, direction = place
    values = {
        "layer": str((layer or 0) + layout.first_layer),
        "direction": layout.directions[0] if direction is None else direction,
        "step": str(step or 0),
        "norm": norm,
        "gate": gate or layout.weights.names[0],
    }
    return re.sub(r"\{(\w+)\}", lambda hit: values[hit[1]], patterns[0].removesuffix("?"))


def _sort_rest(found: Match, tensors: Mapping[str, Tensor], known: set[str]) -> None:
    """Tell unknown keys within the recurrent layers from those beside them.

    Within are those below the prefix, or in a submodule that has known keys; except for Linear
    layers, which models keep in the same module as their recurrent layers.
    """
    is_wrapper = set(re.split("[./]", found.prefix)) <= {*WRAPPERS, ""}
    submodules = {_head(key) for key in known} - {""}
    for key in tensors:
        own = key.removeprefix(found.prefix)
        below = key.startswith(found.prefix)
        if below and own in known:
            continue
        within = below and (not is_wrapper or _head(own) in submodules)
        (found.unknown if within and not _is_linear(key, tensors) else found.left_over).append(key)


def _head(key: str) -> str:
    """Return the first component of a key's path, "" if it has only one."""
    first, separator, _ = key.replace("/", ".").partition(".")
    return first if separator else ""


def _is_linear(key: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a key is the weight or the bias of a torch.nn.Linear."""
    module = key.rpartition(".")[0]
    weight = tensors.get(f"{module}.weight")
    return key in (f"{module}.weight", f"{module}.bias") and weight is not None and weight.ndim == 2
