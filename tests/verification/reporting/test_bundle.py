"""write_bundle(): the folder reproduces the failure by itself."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.npz import read_npz
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.verification.diagnosis import diagnose
from bnlstm_deploy.verification.reporting.bundle import write_bundle
from tests.models import randomize
from tests.verification.quick import check

FILES = {
    "model.onnx",
    "inputs.npz",
    "expected.npz",
    "actual.npz",
    "tolerance.json",
    "versions.json",
    "report.json",
    "replay.py",
}


@pytest.fixture(scope="module")
def model():
    return randomize(BNLSTMModel(BNLSTM(3, 5, 2, batch_first=True, max_length=6), 2, "every"))


@pytest.fixture(scope="module")
def paths(model, tmp_path_factory):
    """A correct file, and one with a fault in row 3 of the first layer."""
    folder = tmp_path_factory.mktemp("bundle")
    export(model, folder / "correct.onnx")
    proto = onnx.load(folder / "correct.onnx")
    (target,) = (e for e in proto.graph.initializer if e.name == "rnn.bias_l0")
    array = numpy_helper.to_array(target).copy()
    array[3, 2] += 0.3
    target.CopyFrom(numpy_helper.from_array(array, target.name))
    onnx.save(proto, folder / "broken.onnx")
    return {name: folder / f"{name}.onnx" for name in ("correct", "broken")}


TOLERANCE = dict.fromkeys(("output", "h_n", "c_n", "next_step"), 1e-5)


def failing(path, model):
    """The smallest failing part of some inputs."""
    session = Session(path)
    x = np.random.default_rng(0).standard_normal((4, 9, 3), dtype=np.float32)
    feeds = {"input": x, "lengths": np.array([2, 9, 8, 7])}
    return diagnose(model, path, feeds, run=session.run, tolerance=TOLERANCE)


def replay(folder):
    """Run the script in a process that has only numpy and onnxruntime to import."""
    return subprocess.run(
        [sys.executable, "-I", str(folder / "replay.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder.parent,
    )


def test_a_bundle_reproduces_the_failure(model, paths, tmp_path):
    found = failing(paths["broken"], model)
    folder = tmp_path / "new" / "bundle"
    report = {"seed": 7, "diagnosis": found.to_dict()}
    write_bundle(folder, paths["broken"], found.minimal, TOLERANCE, report)
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
    kept = read_npz(folder / "inputs.npz")
    assert kept["input"].shape == (1, 4, 3)
    assert kept["input"].dtype == np.float32
    assert read_npz(folder / "expected.npz")["output"].dtype == np.float64
    assert json.loads((folder / "report.json").read_text())["diagnosis"]["origin"]["row"] == 3
    assert json.loads((folder / "tolerance.json").read_text()) == TOLERANCE
    versions = json.loads((folder / "versions.json").read_text())
    assert versions["seed"] == 7
    assert versions["providers"] == ["CPUExecutionProvider"]
    assert {"python", "numpy", "onnxruntime", "onnx", "torch", "machine"} <= versions.keys()
    result = replay(folder)
    assert result.returncode == 1, result.stderr
    assert "reproduced" in result.stdout.splitlines()
    assert "output: error " in result.stdout
    assert "torch" not in (folder / "replay.py").read_text()
    # with the correct file in its place, it passes
    (folder / "model.onnx").write_bytes(paths["correct"].read_bytes())
    result = replay(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "not reproduced" in result.stdout


def test_a_folder_in_the_way_is_left_alone(model, paths, tmp_path):
    case = failing(paths["broken"], model).minimal
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="exists; choose another name"):
        write_bundle(tmp_path / "b", paths["broken"], case, TOLERANCE, {})
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_bundle(tmp_path / "file" / "b", paths["broken"], case, TOLERANCE, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "file"]


def test_nothing_is_left_of_a_bundle_that_fails(model, paths, tmp_path):
    case = failing(paths["broken"], model).minimal
    circular = {}
    circular["itself"] = circular
    with pytest.raises(ValueError, match="Circular"):
        write_bundle(tmp_path / "b", paths["broken"], case, TOLERANCE, circular)
    assert not list(tmp_path.iterdir())


def test_a_failed_check_leaves_a_bundle(model, paths, tmp_path):
    folder = tmp_path / "b"
    report = check(model, paths["broken"], bundle=folder)
    assert not report.passed
    assert replay(folder).returncode == 1
    written = json.loads((folder / "report.json").read_text())
    assert written["diagnosis"] == report.diagnosis
    assert report.diagnosis["origin"]["layer"] == 0
    with pytest.raises(InputError, match="exists; choose another name"):
        check(model, paths["broken"], bundle=folder)
    assert check(model, paths["correct"], bundle=tmp_path / "none").passed
    assert not (tmp_path / "none").exists()
