"""What a GPU computes: equivalence in all dtypes, CUDA graphs against none, states that change.

Run by `make test-gpu`. Skipped without a GPU, or where onnxruntime is not onnxruntime-gpu.
"""

import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.runtime import Buckets, Session
from bnlstm_deploy.verification import verify
from tests.models import randomize

CUDA = ("cuda",)
T = 40
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def why_not():
    if os.environ.get("BNLSTM_CUDA_STUB"):
        return "the CUDA libraries are stubs, which compute nothing"
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "onnxruntime has no CUDA provider; make test-gpu installs onnxruntime-gpu"
    if not Path("/dev/nvidia0").exists():
        return "this machine has no NVIDIA GPU"
    return None


if reason := why_not():
    pytest.skip(reason, allow_module_level=True)


def make(**arguments):
    model = BNLSTM(3, 32, 2, max_length=30, beta=("cell",), **arguments)
    return randomize(BNLSTMModel(model, 5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"folding": "materialized"},
        {"form": "unrolled", "length": T, "folding": "factored"},
        {"form": "unrolled", "length": T, "folding": "materialized"},
    ],
)
def test_cuda_computes_what_the_model_computes(dtype, arguments, tmp_path):
    model = make(bidirectional=dtype == "float32")
    export(model, tmp_path / "m.onnx", dtype=DTYPES[dtype], target="cuda", **arguments)
    report = verify(model, tmp_path / "m.onnx", providers=CUDA, search_seconds=1)
    assert report.passed, (report.stages, report.failures[:5])


def test_cudnn_computes_what_the_model_computes(tmp_path):
    model = randomize(BNLSTM(3, 32, 2, max_length=30, normalize=("input",)))
    metadata = export(model, tmp_path / "m.onnx", target="cuda")
    assert metadata.form == "lstm"
    assert verify(model, tmp_path / "m.onnx", providers=CUDA, search_seconds=0).passed


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_captured_graph_gives_what_an_uncaptured_one_gives_a_thousand_times(dtype, tmp_path):
    model = make()
    export(model, tmp_path / "m.onnx", dtype=DTYPES[dtype], target="cuda", length=T)
    captured = Buckets(tmp_path / "m.onnx", batches=(4, 16), providers=CUDA, capture=True)
    captured.warm_up()
    plain = Session(tmp_path / "m.onnx", providers=CUDA)
    generator = np.random.default_rng(0)
    real = np.float64 if dtype == "float64" else np.float32
    state = None
    for _ in range(1000):
        batch = 4 if state is not None else int(generator.integers(1, 17))
        lengths = generator.integers(0, T + 1, batch)
        x = generator.standard_normal((T, batch, 3)).astype(real)
        names = {"initial_h": "h", "initial_c": "c"}
        feeds = {"input": x, "lengths": lengths}
        if state is not None:
            feeds |= {name: getattr(state, kind) for name, kind in names.items()}
        expected = plain.run(feeds)
        output, state = captured(x, state=state, lengths=lengths)
        np.testing.assert_array_equal(output, expected["output"])
        np.testing.assert_array_equal(state.h, expected["h_n"])
        np.testing.assert_array_equal(state.c, expected["c_n"])
        state = state if batch == 4 else None
