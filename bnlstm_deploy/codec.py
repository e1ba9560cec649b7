"""Plain data, as JSON and TOML have it, as dataclasses and back: right types and nothing else."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bnlstm_deploy.errors import BnlstmError

T = TypeVar("T")


def decode(content: object, kind: type[T], source: str, error: type[BnlstmError]) -> T:
    """Read plain data as a dataclass.

    Args:
        content: Dicts, lists, text and numbers.
        kind: The dataclass; its annotations say what each field takes.
        source: What to call the data in errors.
        error: The class of these.

    Raises:
        BnlstmError: `error`, which names the field: one is missing, unknown, or of a wrong type.
    """
    try:
        decoded = msgspec.convert(content, kind)
    except msgspec.ValidationError as cause:
        raise error(f"{source}: {cause}{_seen(content, str(cause))}; correct it") from cause
    unknown = sorted(_unknown(content, msgspec.to_builtins(decoded), "$"))
    if unknown:
        raise error(f"{source}: unknown fields {', '.join(unknown)}; correct or remove them")
    return decoded


def read_json(path: Path, kind: type[T], error: type[BnlstmError]) -> T:
    """Read a JSON file as a dataclass.

    Raises:
        BnlstmError: `error`: the file cannot be read, is no JSON, or as `decode`.
    """
    try:
        content = msgspec.json.decode(path.read_bytes())
    except (OSError, UnicodeError, msgspec.DecodeError, RecursionError) as cause:
        raise error(f"{path} cannot be read as JSON: {cause}") from cause
    return decode(content, kind, str(path), error)


def to_plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return content with numbers that JSON lacks as text: nan, inf."""

    def plain(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        return to_plain(value) if isinstance(value, Mapping) else value

    return {name: plain(value) for name, value in content.items()}


def _seen(content: object, message: str) -> str:
    """Return the value that a message of msgspec is about, in words, as far as it says where."""
    path = re.search(r"`\$(.*)`$", message)
    if path is None or "[...]" in path[1]:
        return ""
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", path[1]):
        content = content[name or int(index)]  # type: ignore[index]
    known = f"{content!r:.60}"
    shown = isinstance(content, str | int | float) and known not in message
    return f", which is {known}" if shown else ""


def _unknown(given: object, known: object, where: str) -> Iterator[str]:
    """Yield the paths of what is given and was not read: msgspec passes over it."""
    if isinstance(given, dict) and isinstance(known, dict):
        for name, value in given.items():
            path = f"{where}.{name}"
            if name in known:
                yield from _unknown(value, known[name], path)
            else:
                yield path
    elif isinstance(given, list) and isinstance(known, list | tuple):
        for number, (value, other) in enumerate(zip(given, known, strict=True)):
            yield from _unknown(value, other, f"{where}[{number}]")
