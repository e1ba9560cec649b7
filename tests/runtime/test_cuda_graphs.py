"""CUDA graphs of Buckets on the CUDA provider, over stub libraries: counts, and no numbers."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Buckets, Session
from bnlstm_deploy.runtime.kernel import VARIABLE
from tests.cuda_stub import counts
from tests.cuda_stub.environment import require_stubs
from tests.models import randomize

require_stubs()

LENGTHS = (6, 40)
"""One of them beyond 32, where the form unrolled has trees of Splits and Concats."""


@pytest.fixture(autouse=True, params=["function body", "native"])
def kernel(request, monkeypatch):
    """Run all tests with the native kernel and without."""
    if request.param == "function body":
        monkeypatch.setenv(VARIABLE, "0")
    return request.param


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    model = randomize(BNLSTM(3, 8, batch_first=True, max_length=4))
    export(model, folder / "scan.onnx")
    export(model, folder / "any.onnx", target="cuda", form="scan")
    for length in LENGTHS:
        unrolled = {"form": "unrolled", "folding": "factored", "length": length, "target": "cuda"}
        export(model, folder / f"{length}.onnx", **unrolled)
    return folder


def test_each_bucket_is_captured_once_and_replayed(files):
    buckets = Buckets([files / f"{t}.onnx" for t in LENGTHS], batches=(4,), capture=True)
    counts.reset()
    buckets.warm_up()
    warm = counts.read()
    assert warm.graphs["capture"] == 2
    assert not warm.errors
    counts.reset()
    for _ in range(5):
        for time in (5, 33):
            output, state = buckets(np.zeros((3, time, 3), np.float32))
            assert output.shape == (3, time, 8)
            assert state.h.shape == (1, 3, 8)
    counted = counts.read()
    assert counted.graphs == {"launch": 10}
    assert not counted.kernels | counted.gemms | counted.allocations
    assert not counted.errors
    counts.reset()
    for _ in range(5):
        buckets(np.zeros((4, 6, 3), np.float32), state=buckets(np.zeros((4, 6, 3), np.float32))[1])
    counted = counts.read()
    assert counted.graphs == {"capture": 1, "launch": 10}
    assert not counted.errors


def test_graphs_are_captured_while_other_sessions_run(files):
    """A capture is spoiled by any use of CUDA beside it, which waits therefore."""
    session = Session(files / "scan.onnx", providers=("cuda",))
    counts.reset()
    with ThreadPoolExecutor(2) as pool:
        x = np.zeros((2, 4, 3), np.float32)
        running = [pool.submit(session, x) for _ in range(50)]
        buckets = Buckets([files / f"{t}.onnx" for t in LENGTHS], batches=(1, 2, 3, 4))
        buckets.warm_up()
        for future in running:
            future.result()
    counted = counts.read()
    assert counted.graphs["capture"] == 8
    assert not counted.errors


def test_one_file_of_any_length_is_captured_for_each_with_the_native_kernel(files, kernel):
    buckets = Buckets(files / "any.onnx", lengths=LENGTHS, batches=(4,))
    assert buckets.captures == (kernel == "native")
    counts.reset()
    buckets.warm_up()
    for time in (5, 33):
        output, _ = buckets(np.zeros((3, time, 3), np.float32))
        assert output.shape == (3, time, 8)
    counted = counts.read()
    assert counted.graphs == ({"capture": 2, "launch": 4} if buckets.captures else {})
    assert not counted.errors


def test_control_flow_is_refused(files):
    with pytest.raises(
        RuntimeSessionError, match=r"form scan .* without the native .* export for the target cuda"
    ):
        Buckets(files / "scan.onnx", lengths=(4, 8), capture=True)
    assert not Buckets(files / "scan.onnx", lengths=(4, 8)).captures


def test_inputs_and_outputs_pass_through_pinned_memory_and_states_do_not(files):
    session = Session(files / "scan.onnx", providers=("cuda",))
    counts.reset()
    binding = session.bind(2, 4)
    assert counts.read().allocations["host"] == 3  # the input, lengths and the output
    x = np.zeros((2, 4, 3), np.float32)
    for _ in range(3):  # from the initial state, and from either set of states to the other
        binding(x)
    counts.reset()
    binding(x)
    counted = counts.read()
    assert not counted.allocations
    assert not counted.errors
    own = session.raw.run
    counts.reset()
    own(None, {"input": x})
    assert counted.copies["D2H"] <= counts.read().copies["D2H"] - 2
    assert binding.state.h.shape == (1, 2, 8)


def test_all_nodes_may_be_asked_to_be_on_the_device(files):
    for path in files.glob("*.onnx"):
        session = Session(path, providers=("cuda",), allow_partial=False)
        assert session.providers[0] == "CUDAExecutionProvider"
