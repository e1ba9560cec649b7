"""convert --ort: ONNX Runtime's own format, and the operators of a build that runs it."""

import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from bnlstm_deploy.checkpoint import save_checkpoint
from bnlstm_deploy.errors import ExportError, InputError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.ort_format import _check, write_ort
from bnlstm_deploy.runtime import Session
from tests.cli.command import run
from tests.models import randomize

X = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
OPERATOR = re.compile(r"([A-Z]\w*)(?:\{|,|$)")


@pytest.fixture(scope="module")
def model():
    return randomize(BNLSTM(3, 4, max_length=3)).eval()


@pytest.mark.parametrize(
    "options",
    [{}, {"form": "unrolled", "length": 5}, {"weights": "int8"}, {"state": "required"}],
    ids=lambda options: "-".join(map(str, options.values())) or "scan",
)
def test_it_computes_what_the_onnx_file_does(model, options, tmp_path):
    export(model, tmp_path / "m.onnx", **options)
    path, config = write_ort(tmp_path / "m.onnx")
    session, of_onnx = Session(path), Session(tmp_path / "m.onnx", native=False)
    assert not session.native
    assert session.metadata.inlined
    lengths = np.array([5, 2])
    (output, state), (expected, left) = (s(X, lengths=lengths) for s in (session, of_onnx))
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(state.c, left.c)
    text = config.read_text()
    assert "# - m.ort" in text
    assert {"Gemm", "MatMul"} & set(OPERATOR.findall(text))
    assert "BNLSTM" not in text


def test_optional_inputs_stay(model, tmp_path):
    export(model, tmp_path / "m.onnx")
    path, _ = write_ort(tmp_path / "m.onnx")
    raw = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    optional = [value.name for value in raw.get_overridable_initializers()]
    assert optional == ["initial_h", "initial_c", "lengths", "start_step"]


def test_a_file_that_is_there_stays(model, tmp_path):
    export(model, tmp_path / "m.onnx")
    (tmp_path / "m.ort").write_text("mine")
    with pytest.raises(InputError, match=r"m\.ort exists"):
        write_ort(tmp_path / "m.onnx")
    assert (tmp_path / "m.ort").read_text() == "mine"
    write_ort(tmp_path / "m.onnx", force=True)
    assert Session(tmp_path / "m.ort")(X)[0].shape == (5, 2, 4)


def test_what_a_cpu_has_no_kernels_for_is_an_error(model, tmp_path):
    export(model, tmp_path / "m.onnx", dtype=torch.bfloat16)
    with pytest.raises(ExportError, match="ONNX Runtime cannot write"):
        write_ort(tmp_path / "m.onnx")
    assert not (tmp_path / "m.ort").exists()


def test_a_file_that_computes_something_else_is_refused(model, tmp_path):
    export(model, tmp_path / "m.onnx", inline=True)
    other = onnx.load(tmp_path / "m.onnx")
    largest = max(other.graph.initializer, key=lambda array: len(array.raw_data))
    largest.raw_data = bytes(len(largest.raw_data))
    onnx.save(other, tmp_path / "other.onnx")
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    with pytest.raises(ExportError, match="is not what the ONNX file computes"):
        _check(session, tmp_path / "other.onnx")


def test_on_the_command_line(model, tmp_path):
    save_checkpoint(model, tmp_path / "ck")
    command = ("convert", "ck", "-o", "m.onnx", "--no-verify", "--ort")
    done = run(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert "Wrote m.ort" in done.stdout
    (tmp_path / "m.onnx").unlink()
    again = run(tmp_path, *command)
    assert again.returncode == 2
    assert "m.ort exists" in again.stderr
    assert not (tmp_path / "m.onnx").exists()
