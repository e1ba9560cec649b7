"""Layouts from TOML: those that the package ships, and a user's own."""

import re
import tomllib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from bnlstm_deploy.checkpoint.layout import (
    CELL_LETTERS,
    GATES,
    NORM_PATTERNS,
    PLACEHOLDERS,
    REFUSED,
    Keys,
    Layout,
    Normalization,
)
from bnlstm_deploy.codec import decode
from bnlstm_deploy.errors import LayoutError

MOST_FORGET = 100.0
"""The largest bias that anyone adds to a forget gate."""


def shipped_layouts() -> dict[str, Layout]:
    """Return the layouts that the package knows, by name."""
    folder = files("bnlstm_deploy.checkpoint") / "layouts"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return {
        name.removesuffix(".toml"): parse_layout(
            (folder / name).read_text(), name.removesuffix(".toml"), name
        )
        for name in names
    }


def layout_text(name: str) -> str:
    """Return the TOML of a shipped layout.

    Raises:
        LayoutError: There is none of that name.
    """
    folder = files("bnlstm_deploy.checkpoint") / "layouts"
    return (folder / f"{find_layout(name).name}.toml").read_text()


def find_layout(name: str | Path) -> Layout:
    """Return the shipped layout of that name or alias, or the one in a `.toml` file.

    Raises:
        LayoutError: There is none, or the file is not a valid layout.
    """
    path = Path(name)
    if path.suffix == ".toml":
        try:
            return parse_layout(path.read_text(), path.stem, str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise LayoutError(f"{path} cannot be read: {error}") from error
    layouts = shipped_layouts()
    for layout in layouts.values():
        if str(name) in (layout.name, *layout.aliases):
            return layout
    raise LayoutError(
        f"there is no layout {str(name)!r}; the known ones are {', '.join(layouts)}. Pass one of "
        "them, or a .toml file of your own (bnlstm-deploy layouts show NAME prints one to start "
        "from)"
    )


def parse_layout(text: str, name: str, source: str) -> Layout:
    """Read a layout from TOML.

    Args:
        text: The TOML.
        name: What to call it.
        source: What to call the file in errors.

    Raises:
        LayoutError: It is no TOML, or a field is unknown, missing, or has a wrong type or value.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"{source} is not valid TOML: {error}") from error
    if "name" in table:
        raise LayoutError(f"{source}: name is not a field; a layout is called after its file")
    norms = table.get("normalization", {})
    if isinstance(norms, dict):
        common = {key: value for key, value in norms.items() if not isinstance(value, dict)}
        own = {key: value for key, value in norms.items() if isinstance(value, dict)}
        table["normalization"] = {path: common | fields for path, fields in own.items()}
    layout = _with_gates(decode(_listed(table) | {"name": name}, Layout, source, LayoutError))
    _check(layout, source)
    return layout


def _listed(table: dict[str, Any]) -> dict[str, Any]:
    """Return a layout's TOML with a list in the place of each pattern that stands alone."""
    norms = table["normalization"]
    patterns = [
        (table, ("ignore",)),
        (table.get("weights"), ("input", "hidden")),
        (table.get("bias"), ("keys", "hidden", "inside")),
        (table.get("state"), ("h", "c")),
        (table.get("refuse"), tuple(REFUSED)),
        *((norm, NORM_PATTERNS) for norm in (norms.values() if isinstance(norms, dict) else ())),
    ]
    for part, names in patterns:
        if isinstance(part, dict):
            part |= {name: [part[name]] for name in names if isinstance(part.get(name), str)}
    return table


def _with_gates(layout: Layout) -> Layout:
    """Return a layout whose gates have our letters, and names."""
    weights = layout.weights
    letters = "".join("g" if letter in CELL_LETTERS else letter for letter in weights.gates)
    names = weights.gate_names or tuple(weights.gates)
    return replace(layout, weights=replace(weights, gates=letters, gate_names=names))


def _check(layout: Layout, source: str) -> None:
    """Raise LayoutError for values that contradict each other."""
    problems = []
    if sorted(layout.weights.gates) != sorted(GATES):
        problems.append(
            f"weights.gates is {layout.weights.gates!r}; it must be an order of {GATES!r}: input, "
            f"forget, cell (g, or one of {', '.join(CELL_LETTERS)}), output"
        )
    if len(set(layout.weights.gate_names)) != len(GATES):
        problems.append(f"weights.gate_names are {layout.weights.gate_names}; name four gates")
    by_gate = [pattern for pattern in _patterns(layout) if "{gate}" in pattern]
    if by_gate and (layout.weights.orientation is None or layout.weights.interleaved):
        problems.append(
            f"{by_gate[0]!r} is an array a gate, whose weights need an orientation and are not "
            "interleaved"
        )
    if any("{gate}" in pattern for pattern in _of_norm(layout.normalization.get("cell"))):
        problems.append("normalization.cell has {gate}, and there is one cell")
    if not abs(layout.bias.forget) <= MOST_FORGET:
        problems.append(f"bias.forget is {layout.bias.forget:g}; it must be a small number")
    for path, norm in layout.normalization.items():
        where = f"normalization.{path}"
        if bool(norm.var) == bool(norm.std) or not norm.mean:
            problems.append(f"{where} needs mean, and either var or std")
        if not 0 <= norm.eps <= 1:
            problems.append(f"{where}.eps is {norm.eps:g}; it must be from 0 to 1")
        if not norm.first_step and path != "hidden":
            problems.append(f"{where}.first_step = false is for the hidden path only")
    unknown = sorted(layout.refuse.keys() - REFUSED.keys())
    if unknown:
        problems.append(f"[refuse] has {unknown}; the reasons are {list(REFUSED)}")
    if not 1 <= len(layout.directions) <= 2:
        problems.append(f"directions is {layout.directions}; name the forward one and the reverse")
    if bool(layout.state.h) != bool(layout.state.c) or "hidden" not in layout.state.axes:
        problems.append("[state] needs h and c, and an axis called hidden")
    strange = sorted(set(layout.forward.arguments.values()) - {"input", "state", "lengths"})
    if strange:
        problems.append(f"forward.arguments has {strange}; ours are input, state and lengths")
    for pattern in _patterns(layout):
        names = re.findall(r"\{(.*?)\}", pattern)
        if set(names) - set(PLACEHOLDERS):
            problems.append(f"{pattern!r} has a placeholder that is not one of {PLACEHOLDERS}")
    if problems:
        raise LayoutError(f"{source}: " + "; ".join(problems))


def _patterns(layout: Layout) -> list[str]:
    norms = layout.normalization.values()
    groups: list[Keys] = [
        layout.weights.input,
        layout.weights.hidden,
        layout.bias.keys,
        layout.bias.hidden,
    ]
    groups += [layout.ignore, layout.state.h, layout.state.c, *map(_of_norm, norms)]
    groups += [keys for keys in layout.refuse.values() if not isinstance(keys, bool)]
    return [pattern for group in groups for pattern in group]


def _of_norm(norm: Normalization | None) -> Keys:
    """Return all patterns of a normalization."""
    if norm is None:
        return ()
    return tuple(pattern for name in NORM_PATTERNS for pattern in getattr(norm, name))
