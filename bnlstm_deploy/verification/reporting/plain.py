"""Dataclasses of numbers and text as values that JSON can hold, and back."""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_origin, get_type_hints


def to_plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return content with numbers that JSON lacks as text: nan, inf."""

    def plain(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        return to_plain(value) if isinstance(value, Mapping) else value

    return {name: plain(value) for name, value in content.items()}


def from_plain(kind: type[Any], row: Mapping[str, Any], *derived: str) -> Any:  # noqa: ANN401
    """Read a dataclass; `to_plain` has made text of some numbers.

    Args:
        kind: The dataclass.
        row: Its fields.
        derived: Entries of the row that are none.
    """

    def back(value: Any) -> Any:  # noqa: ANN401
        return tuple(map(back, value)) if isinstance(value, list) else float(value)

    hints = get_type_hints(kind)
    text = {n for n, hint in hints.items() if hint in (str, int) or get_origin(hint) is Literal}
    values = {name: value for name, value in row.items() if name not in derived}
    return kind(**{n: value if n in text else back(value) for n, value in values.items()})
