"""What a GPU computes: equivalence in all dtypes, CUDA graphs against none, states that change.

Run by `make test-gpu`. Skipped without a GPU, or where onnxruntime is not onnxruntime-gpu.
"""

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
import torch

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.runtime import Buckets, Session
from bnlstm_deploy.runtime.kernel import VARIABLE
from bnlstm_deploy.verification import verify
from tests.models import randomize
from tests.native.reference import Node, compute

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


def make(hidden=32, **arguments):
    model = BNLSTM(3, hidden, 2, max_length=30, beta=("cell",), **arguments)
    return randomize(BNLSTMModel(model, 5))


@pytest.fixture(params=["native", "function body"])
def kernel(request, monkeypatch):
    """Have the native kernel run, or be an error; or the function body."""
    monkeypatch.setenv(VARIABLE, "cuda" if request.param == "native" else "0")
    return request.param


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
    assert bool(report.no_native) == (dtype == "float64")


@pytest.mark.parametrize("launches", ["step", "sequence"])
@pytest.mark.parametrize("hidden", [1, 20, 32, 63, 64, 100, 128, 300])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_each_way_to_launch_computes_the_operator(launches, hidden, dtype):
    """On the whole contract; `sequence` is `step` where the weights do not fit."""
    random = np.random.default_rng(hidden)
    time, batch, features, rows = 17, 35, 5, 6

    def normal(*shape, scale=1.0):
        return (scale * random.standard_normal(shape)).astype(np.float32)

    arrays = {
        "X": normal(time, batch, features),
        "weight_ih": normal(4 * hidden, features),
        "weight_hh": normal(4 * hidden, hidden, scale=hidden**-0.5),
        "bias": normal(rows, 4 * hidden),
        "initial_h": normal(batch, hidden, scale=0.5),
        "initial_c": normal(1, hidden),
        "input_scale": 1 + normal(rows, 4 * hidden, scale=0.5),
        "hidden_scale": 1 + normal(rows, 4 * hidden, scale=0.5),
        "cell_scale": 1 + normal(rows, hidden, scale=0.5),
        "cell_shift": normal(rows, hidden),
        "lengths": random.integers(0, time + 3, batch),
        "start_step": random.integers(0, 9, batch),
        "rows": random.integers(0, rows, 8),
    }
    truth = compute(arrays)
    kinds = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
    if dtype != "float32":
        operands = {n: arrays[n].astype(kinds[dtype]) for n in ("X", "weight_ih", "weight_hh")}
        truth = compute(arrays | {n: a.astype(np.float32) for n, a in operands.items()})
        arrays |= operands
    options = {"bnlstm.provider": "cuda", "bnlstm.launches": launches}
    constant = frozenset(arrays) - ({"lengths"} if dtype == "bfloat16" else {"X", "lengths"})
    results = Node(
        arrays, constant, ("Y_h", "Y_c"), options=options, provider="CUDAExecutionProvider"
    ).run()
    eps = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    for name, result in results.items():
        assert np.abs(result - truth[name]).max() < 64 * eps * max(np.abs(truth[name]).max(), 1)


def test_cudnn_computes_what_the_model_computes(tmp_path):
    model = randomize(BNLSTM(3, 32, 2, max_length=30, normalize=("input",)))
    metadata = export(model, tmp_path / "m.onnx", target="cuda")
    assert metadata.form == "lstm"
    assert verify(model, tmp_path / "m.onnx", providers=CUDA, search_seconds=0).passed


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_captured_graph_gives_what_an_uncaptured_one_gives_a_thousand_times(
    dtype, kernel, tmp_path
):
    if (kernel, dtype) == ("native", "float64"):
        pytest.skip("the native kernel for CUDA is not for it")
    model = make(100)
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
