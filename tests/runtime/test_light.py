"""The runtime in an environment that has only what the base and `cpu` installs bring."""

import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.npz import read_npz

PACKAGE = Path(__file__).parents[2] / "bnlstm_deploy"


def closure(name, extras=()):
    """The distributions that installing `name[extras]` brings, without `name` itself."""
    found = {}
    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        marker = requirement.marker
        wanted = marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras))
        if wanted and requirement.name not in found:
            found[requirement.name] = metadata.distribution(requirement.name)
            found |= closure(requirement.name, requirement.extras)
    return found


@pytest.fixture(scope="module")
def make_environment(tmp_path_factory):
    """Build virtual environments by linking installed distributions: no network is needed."""

    def make(name, extras):
        folder = tmp_path_factory.mktemp(name)
        venv.create(folder, with_pip=False, symlinks=True)
        site = next((folder / "lib").glob("python*")) / "site-packages"
        (site / "bnlstm_deploy").symlink_to(PACKAGE)
        for distribution in closure("bnlstm-deploy", extras).values():
            tops = {Path(file).parts[0] for file in distribution.files or ()} - {
                "..",
                "__pycache__",
            }
            for top in tops:
                link = site / top
                if not link.exists():
                    link.symlink_to(Path(str(distribution.locate_file(top))))
        return folder / "bin" / "python"

    return make


def run(python, *arguments, cwd=None):
    return subprocess.run(
        [python, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )


CODE = """
import sys
import numpy as np
from bnlstm_deploy import Session
session = Session("m.onnx")
output, state = session(np.ones((5, 2, 3), np.float32))
np.save("y.npy", output)
heavy = {"torch", "onnx", "onnx_ir", "onnxscript", "safetensors"} & set(sys.modules)
assert not heavy, heavy
"""

COMMANDS = "from bnlstm_deploy.cli.main import main; main()"


def test_the_runtime_needs_neither_torch_nor_onnx(make_environment, tmp_path):
    python = make_environment("runtime", ("cpu",))
    for module in ("torch", "onnx", "safetensors"):
        assert run(python, "-c", f"import {module}").returncode == 1
    model = BNLSTM(3, 4, max_length=4).eval()
    export(model, tmp_path / "m.onnx")
    result = run(python, "-c", CODE, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    output = np.load(tmp_path / "y.npy")
    assert output.shape == (5, 2, 4)
    np.savez(tmp_path / "x.npz", input=np.ones((5, 2, 3), np.float32))
    for command in (
        ["run", "m.onnx", "-i", "x.npz", "-o", "y.npz"],
        ["inspect", "m.onnx"],
        ["bench", "m.onnx", "--seconds", "0"],
        ["--help"],
    ):
        result = run(python, "-c", COMMANDS, *command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(read_npz(tmp_path / "y.npz")["output"], output)
    for extra, command in (
        ("convert", ["convert", "checkpoint", "-o", "n.onnx"]),
        ("serve", ["serve", "m.onnx"]),
        ("ray", ["deploy", "ray", "m.onnx"]),
        ("triton", ["deploy", "triton", "m.onnx", "-o", "repository"]),
    ):
        result = run(python, "-c", COMMANDS, *command, cwd=tmp_path)
        assert result.returncode == 2, command
        assert f"pip install 'bnlstm-deploy[{extra}]'" in result.stderr
        assert "Traceback" not in result.stderr


def test_the_base_install_names_the_missing_extra(make_environment, tmp_path):
    python = make_environment("base", ())
    assert run(python, "-c", COMMANDS, "--help", cwd=tmp_path).returncode == 0
    result = run(python, "-c", "import bnlstm_deploy; bnlstm_deploy.Session", cwd=tmp_path)
    assert result.returncode == 1
    assert "MissingExtraError" in result.stderr
    assert "pip install 'bnlstm-deploy[cpu]'" in result.stderr
    result = run(python, "-c", "from bnlstm_deploy.nn import BNLSTM", cwd=tmp_path)
    assert "pip install 'bnlstm-deploy[convert]'" in result.stderr


def test_layouts_need_no_torch(make_environment, tmp_path):
    python = make_environment("layouts", ())
    for command in (["layouts"], ["layouts", "show", "jihunchoi"]):
        result = run(python, "-c", COMMANDS, *command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "jihunchoi" in result.stdout
    result = run(python, "-c", "from bnlstm_deploy.checkpoint import replace", cwd=tmp_path)
    assert "pip install 'bnlstm-deploy[convert]'" in result.stderr


def test_a_repository_for_triton_needs_no_torch(make_environment, tmp_path):
    python = make_environment("triton", ("triton", "cpu"))
    assert run(python, "-c", "import torch").returncode == 1
    export(BNLSTM(3, 4, max_length=4).eval(), tmp_path / "m.onnx")
    command = ["deploy", "triton", "m.onnx", "-o", "repository"]
    result = run(python, "-c", COMMANDS, *command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "repository" / "m" / "1" / "model.onnx").exists()


def test_nothing_heavy_is_imported_by_the_package_itself():
    code = """
import sys, bnlstm_deploy.cli.main
names = "torch onnx onnxruntime kserve ray tritonclient numpy msgspec matplotlib jinja2"
heavy = {*names.split(), "huggingface_hub"} & {*sys.modules}
assert not heavy, heavy
"""
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
