"""The package's public surface, and the directions of its imports."""

import ast
import graphlib
import importlib
import inspect
import re
from pathlib import Path

import pytest

import bnlstm_deploy
from bnlstm_deploy.errors import BnlstmError
from bnlstm_deploy.version import __version__

ROOMS = (
    *("checkpoint", "nn", "folding", "exporting", "runtime", "verification"),
    *("serve", "client", "deploy", "cli"),
)


PUBLIC = ("checkpoint", "client", "errors", "folding", "nn", "runtime", "serve", "verification")
"""The rooms that users import from, beside the package itself."""


def test_every_public_name_is_there():
    for name in bnlstm_deploy.__all__:
        assert getattr(bnlstm_deploy, name) is not None
    assert bnlstm_deploy.__version__ == __version__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        bnlstm_deploy.nothing  # noqa: B018


@pytest.mark.parametrize("room", ROOMS[:-1])
def test_every_room_lists_what_it_has(room):
    module = importlib.import_module(f"bnlstm_deploy.{room}")
    assert sorted(module.__all__) == list(module.__all__)
    assert accidental(module) == set()
    for name in module.__all__:
        assert hasattr(module, name)


def accidental(module):
    """Return what can be taken from a module and is not meant to be."""
    public = {name for name in vars(module) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(module, name))}
    return public - modules - {*module.__all__}


def test_the_package_lists_what_it_has():
    assert sorted(bnlstm_deploy.__all__) == bnlstm_deploy.__all__ == dir(bnlstm_deploy)
    assert accidental(bnlstm_deploy) == set()
    # A verb is no module, whichever modules have been imported.
    importlib.import_module("bnlstm_deploy.conversion")
    for verb in ("convert", "export", "fold", "load", "verify"):
        assert inspect.isfunction(getattr(bnlstm_deploy, verb))


def test_the_public_names_are_those_of_the_documentation():
    page = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
    described = {}
    for line in page.splitlines():
        if heading := re.fullmatch(r"## `([\w.]+)`.*", line):
            names = described[heading[1]] = set()
        elif row := re.match(r"\| `(\w+)", line):
            names.add(row[1])
    modules = ["bnlstm_deploy", *(f"bnlstm_deploy.{room}" for room in PUBLIC)]
    assert described == {name: {*importlib.import_module(name).__all__} for name in modules}


def test_all_errors_are_one_tree():
    errors = importlib.import_module("bnlstm_deploy.errors")
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), BnlstmError)


MAY_IMPORT = {
    "nn": set(),
    "checkpoint": {"nn"},
    "folding": {"nn"},
    "exporting": {"nn", "folding", "checkpoint"},
    "runtime": set(),
    "verification": {"nn", "folding", "checkpoint", "exporting", "runtime", "client"},
    "serve": {"runtime"},
    "client": set(),
    "deploy": {"runtime", "serve"},
    "cli": {*ROOMS},
}
"""The arrows of the architecture: what each room may import from."""


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_follow_the_arrows(room):
    folder = Path(bnlstm_deploy.__path__[0]) / room
    for path in folder.rglob("*.py"):
        for module in imports(path):
            parts = module.split(".")
            if parts[0] == "bnlstm_deploy" and len(parts) > 1 and parts[1] in ROOMS:
                assert parts[1] in MAY_IMPORT[room] | {room}, f"{path.name} imports {module}"
            if room in {"runtime", "serve", "client", "deploy"}:
                assert parts[0] not in ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors")


def test_the_types_are_for_users():
    assert (Path(bnlstm_deploy.__file__).parent / "py.typed").is_file()


def modules():
    """Return the package's modules by name, and what each imports when it is imported."""
    root = Path(bnlstm_deploy.__path__[0])
    paths = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        paths[".".join(parts).removesuffix(".__init__")] = path

    def imported(path):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield inner if inner in paths else node.module

    return {name: {*imported(path)} & paths.keys() for name, path in paths.items()}


def test_no_import_goes_in_a_circle():
    graphlib.TopologicalSorter(modules()).prepare()  # raises CycleError


def test_no_two_files_have_one_name():
    """But for commands, which are called like what they do, or like the room that does it."""
    root = Path(bnlstm_deploy.__path__[0])
    names = [path.name for path in root.rglob("*.py") if path.parent.name != "cli"]
    twice = {name for name in names if names.count(name) > 1}
    assert twice == {"__init__.py"}
