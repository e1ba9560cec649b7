"""The programs of examples/, compiled and run against ONNX Runtime's library of its wheel."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from bnlstm_deploy.checkpoint import load, save_checkpoint
from bnlstm_deploy.exporting import export
from bnlstm_deploy.native import library_path
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session
from tests.models import randomize

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"
HEADERS = Path(__file__).parent / "native" / "include"
SHAPE = (2, 9, 3)
SIZES = tuple(map(str, SHAPE))
"""N, T, D as arguments."""

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="libraries are called otherwise")


def sawtooth():
    """Return the input of the programs."""
    return (np.arange(np.prod(SHAPE)) % 16 / 8 - 1).astype(np.float32).reshape(SHAPE)


@pytest.fixture(scope="module")
def model():
    return randomize(BNLSTM(3, 20, num_layers=2, batch_first=True, max_length=6)).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A folder with the compiled programs, and a file, `model.onnx`."""
    folder = tmp_path_factory.mktemp("examples")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    # the name that programs look for; the wheel has the whole version in it
    (folder / "libonnxruntime.so.1").symlink_to(library)
    compiler = ["g++"] if shutil.which("g++") else [sys.executable, "-m", "ziglang", "c++"]
    options = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-I", HEADERS]
    for name in ("native", "stream"):
        source = EXAMPLES / "cpp" / f"{name}.cpp"
        command = [*compiler, *options, source, library, "-o", folder / name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    export(model, folder / "model.onnx")
    return folder


def run(folder, *arguments, program="native", **variables):
    command = [folder / program, *arguments]
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder)} | variables
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def numbers(result):
    assert result.returncode == 0, result.stderr
    return np.array(result.stdout.split(), np.float32).reshape(*SHAPE[:2], -1)


@on_linux
def test_the_native_program_computes_what_a_session_does(folder):
    own = numbers(run(folder, folder / "model.onnx", library_path(), *SIZES))
    session = Session(folder / "model.onnx")
    assert session.native
    assert np.array_equal(own, session(sawtooth())[0])


@on_linux
@pytest.mark.parametrize("native", [True, False])
def test_the_native_program_is_as_exact_as_the_training_model(model, folder, native):
    x = torch.from_numpy(sawtooth())
    with torch.no_grad():
        float32 = model(x)[0]
        truth = model.double()(x.double())[0]
        model.float()
    library = library_path() if native else "-"
    own = numbers(run(folder, folder / "model.onnx", library, *SIZES))
    error = np.abs(own - truth.numpy()).max()
    assert error <= 4 * (float32 - truth).abs().max().item()


@on_linux
@pytest.mark.parametrize("native", [True, False])
def test_a_stream_in_cpp_is_that_of_a_session(folder, native):
    library = library_path() if native else "-"
    result = run(folder, folder / "model.onnx", library, *SIZES, program="stream")
    assert result.returncode == 0, result.stderr
    streamed = np.array(result.stdout.split(), np.float32).reshape(SHAPE[1], SHAPE[0], -1)
    session = Session(folder / "model.onnx", native=native)
    state, expected = None, []
    for chunk in np.split(sawtooth(), SHAPE[1], axis=1):
        output, state = session(chunk, state=state)
        expected.append(output[:, 0])
    np.testing.assert_array_equal(streamed, expected)


@on_linux
def test_what_the_native_program_cannot_do_is_a_message(folder):
    for arguments, variables, message in (
        (("none.onnx", "-"), {}, "none.onnx"),
        ((folder / "model.onnx", "none.so"), {}, "none.so"),
        (
            (folder / "model.onnx", library_path()),
            {"BNLSTM_DEPLOY_NATIVE": "sse9"},
            "BNLSTM_DEPLOY_NATIVE is 'sse9'",
        ),
    ):
        result = run(folder, *arguments, *SIZES, **variables)
        assert result.returncode == 1
        assert message in result.stderr
        assert not result.stdout
    usage = run(folder, folder / "model.onnx")
    assert usage.returncode == 2
    assert "usage" in usage.stderr


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "digits.onnx"
    export(load(EXAMPLES.parent / "models" / "permuted-digits"), path)
    return path


def program(name, folder, *arguments):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_program_of_python_is_run_here():
    run = {"convert.py", "classify.py", "stream.py", "whole_model.py", "serve.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == run


def test_convert(tmp_path):
    model = randomize(BNLSTM(2, 3, max_length=2))
    save_checkpoint(model, tmp_path / "checkpoint")
    said = program("convert.py", tmp_path, "checkpoint", "m.onnx")
    assert said.startswith("m.onnx: ")
    assert Session(tmp_path / "m.onnx").metadata.verified


def test_classify(digits, tmp_path):
    said = program("classify.py", tmp_path, digits)
    assert len(said.strip("[]\n").split()) == 3


@pytest.mark.parametrize("name", ["stream.py", "serve.py"])
def test_streams(name, digits, tmp_path):
    assert all(float(error) < 1e-4 for error in program(name, tmp_path, digits).split())


def test_a_whole_model(tmp_path):
    assert program("whole_model.py", tmp_path).startswith("tagger.onnx: ")
