"""Which files a server is to serve, under which names and versions."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bnlstm_deploy.errors import InputError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Names that need no quoting in a URL, a metric or a shell."""

VERSION = re.compile(r"[1-9][0-9]*")
ONLY_VERSION = "1"


class Entry(NamedTuple):
    """A file that is to be served."""

    name: str
    version: str
    path: Path
    named: bool = True
    """Whether it was named itself, and not found in a folder."""


def find(arguments: Sequence[str]) -> list[Entry]:
    """Return the files that the arguments of the command mean.

        model.onnx       the model `model`, version 1
        name=model.onnx  the model `name`, version 1
        folder           all of folder/*.onnx, and folder/NAME/VERSION/*.onnx
        name=folder      the versions of one model, folder/VERSION/*.onnx

    Args:
        arguments: Files or folders, each with or without a name.

    Returns:
        The files; a name's versions in ascending order.

    Raises:
        InputError: A path does not exist, a folder holds no model, or a version not exactly one;
            a name cannot be one; or two files have one name and version.
    """
    entries: dict[tuple[str, str], Entry] = {}
    for argument in arguments:
        for entry in _of(argument):
            if not NAME.fullmatch(entry.name):
                raise InputError(
                    f"{entry.path} would be served as {entry.name!r}; give it a name of letters, "
                    f"digits, dots, dashes and underscores: NAME={entry.path}"
                )
            known = entries.setdefault((entry.name, entry.version), entry)
            if known is not entry:
                raise InputError(
                    f"{known.path} and {entry.path} would both be version {entry.version} of "
                    f"{entry.name!r}; give one another name: NAME={entry.path}"
                )
    return sorted(entries.values(), key=lambda entry: (entry.name, int(entry.version)))


def _of(argument: str) -> Iterator[Entry]:
    name, equals, rest = argument.partition("=")
    named = bool(equals) and not Path(argument).exists()
    path = Path(rest if named else argument)
    if not path.exists():
        raise InputError(f"{path} does not exist; pass an exported file, or a folder of them")
    if path.is_file():
        yield Entry(name if named else path.stem, ONLY_VERSION, path)
        return
    found = list(_versions(name, path)) if named else list(_folder(path))
    if not found:
        inside = "VERSION/*.onnx" if named else "*.onnx or NAME/VERSION/*.onnx"
        raise InputError(f"the folder {path} has no {inside}, with a number as VERSION")
    yield from found


def _folder(folder: Path) -> Iterator[Entry]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _versions(path.name, path)
        elif path.suffix == ".onnx":
            yield Entry(path.stem, ONLY_VERSION, path, named=False)


def _versions(name: str, folder: Path) -> Iterator[Entry]:
    for version in sorted(folder.iterdir()):
        if not (version.is_dir() and VERSION.fullmatch(version.name)):
            continue  # such as Triton's config.pbtxt
        files = sorted(version.glob("*.onnx"))
        if len(files) != 1:
            raise InputError(
                f"{version} holds {len(files)} files *.onnx; a version of a model is one file"
            )
        yield Entry(name, version.name, files[0], named=False)
