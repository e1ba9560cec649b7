"""Protocol buffers as text, so that writing a configuration needs no Triton library."""

import json
from collections.abc import Iterator, Mapping

Field = object
"""A number, a bool, a string, a Word, a mapping (a message), or a list of these (repeated)."""


class Word(str):
    """An enumerator, which is written without quotes."""

    __slots__ = ()


def write(message: Mapping[str, Field]) -> str:
    """Return a message as text; fields that are None are left out.

    Args:
        message: Its fields by name.
    """
    return "\n".join(_lines(message, "")) + "\n"


def _lines(message: Mapping[str, Field], indent: str) -> Iterator[str]:
    for name, field in message.items():
        repeated = field if isinstance(field, list) else [field]
        if isinstance(field, list) and field and not isinstance(field[0], Mapping):
            yield f"{indent}{name}: [{', '.join(map(_scalar, field))}]"
            continue
        for value in repeated:
            if isinstance(value, Mapping):
                yield f"{indent}{name} {{"
                yield from _lines(value, f"{indent}  ")
                yield f"{indent}}}"
            elif value is not None:
                yield f"{indent}{name}: {_scalar(value)}"


def _scalar(value: Field) -> str:
    if isinstance(value, Word):
        return value
    # A JSON string is a text-format string, as long as it is ASCII without \u escapes, or UTF-8.
    return json.dumps(value, ensure_ascii=False)
