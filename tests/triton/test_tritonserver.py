"""Exported files on the real tritonserver, called by its own clients.

Run by `make test-triton`.
"""

import importlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.triton.server import MODELS, Server

SLOTS = 4
"""Streams at a time: --max-sequences in make.py."""

PROTOCOLS = ("http", "grpc")


@pytest.fixture(scope="module")
def expected():
    with np.load(MODELS / "expected.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def call(python_server):
    """Return a function that runs one request on a connection of its own."""

    def call(model, x, protocol="http", **sequence):
        module = importlib.import_module(f"tritonclient.{protocol}")
        tensor = module.InferInput("input", x.shape, "FP32")
        tensor.set_data_from_numpy(x)
        with module.InferenceServerClient(getattr(python_server, protocol)) as client:
            return client.infer(model, [tensor], **sequence).as_numpy("output")

    return call


def statistics(server, model):
    with tritonclient.http.InferenceServerClient(server.http) as client:
        (entry,) = client.get_inference_statistics(model)["model_stats"]
    return entry["inference_count"], entry["execution_count"]


def stream(call, model, x, identifier, sizes, protocol="http"):
    """Send one stream in chunks, and return all outputs."""
    results, start = [], 0
    for size in sizes:
        end = start + size == x.shape[1]
        chunk = x[:, start : start + size]
        ends = {"sequence_start": start == 0, "sequence_end": end}
        results.append(call(model, chunk, protocol, sequence_id=identifier, **ends))
        start += size
    return results


def sizes_of(generator, total):
    cuts = np.sort(generator.choice(np.arange(1, total), 5, replace=False))
    return np.diff([0, *cuts, total]).tolist()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_whole_sequences_of_different_lengths_share_runs(python_server, call, expected, protocol):
    before = statistics(python_server, "whole")
    x = expected["x"]
    inputs = [x[i : i + 1, : x.shape[1] - i] for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda one: call("whole", one, protocol), inputs))
    for i, result in enumerate(results):
        np.testing.assert_allclose(result, expected[f"whole_{i}"], atol=1e-6)
    inferences, executions = np.subtract(statistics(python_server, "whole"), before)
    assert inferences == 8
    assert executions < 8


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", ["oldest", "direct", "learned"])
def test_concurrent_streams_give_what_a_session_gives(call, expected, model, protocol):
    x = expected["x"]
    truth = expected["classifier" if model == "learned" else "layers"]
    sizes = [sizes_of(np.random.default_rng(i), x.shape[1]) for i in range(len(x))]
    names = [7, "seven", 2**40, "x" * 100, 1, "1", 2, "two"]  # more than there are slots

    def run(i):
        return stream(call, model, x[i : i + 1], names[i], sizes[i], protocol)

    with ThreadPoolExecutor(len(x)) as pool:
        results = list(pool.map(run, range(len(x))))
    for i, chunks in enumerate(results):
        if model == "learned":
            own, result = truth[i, np.cumsum(sizes[i]) - 1], np.concatenate(chunks)
        else:
            own, result = truth[i], np.concatenate(chunks, axis=1)[0]
        np.testing.assert_allclose(result, own, atol=1e-6)


def test_the_native_kernel_runs_unless_it_was_left_out(call, expected):
    """The library beside the model is loaded by the server; its sums are the same to the bit."""
    kernel = expected["kernel/layers"]
    assert not np.array_equal(kernel, expected["layers"])
    x = expected["x"]
    for model in ("oldest", "direct", "body"):
        results = [
            np.concatenate(stream(call, model, x[i : i + 1], 300 + i, [5, 1, 18]), axis=1)[0]
            for i in range(len(x))
        ]
        assert np.array_equal(results, kernel) is (model != "body")
    whole = [call("whole", x[i : i + 1, : x.shape[1] - i]) for i in range(len(x))]
    for i, result in enumerate(whole):
        assert np.array_equal(result, expected[f"kernel/whole_{i}"])


def test_interleaved_streams_at_different_steps(call, expected):
    x, truth = expected["x"], expected["layers"]
    at = dict.fromkeys(range(SLOTS), 0)
    for turn in range(24):
        i = turn % SLOTS if turn >= SLOTS else turn // 2
        size = 1 + turn % 3
        chunk = x[i : i + 1, at[i] : at[i] + size]
        result = call("oldest", chunk, sequence_id=100 + i, sequence_start=at[i] == 0)
        np.testing.assert_allclose(result[0], truth[i, at[i] : at[i] + size], atol=1e-6)
        at[i] += size
    assert len(set(at.values())) > 1
    for i in [i for i in at if at[i]]:
        call("oldest", x[:1, :1], sequence_id=100 + i, sequence_end=True)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", ["oldest", "direct"])
@pytest.mark.parametrize("identifier", [900, "unknown"])
def test_a_stream_that_is_unknown_or_over_is_an_error(call, expected, model, identifier, protocol):
    chunk, truth = expected["x"][:1, :2], expected["layers"][:1]
    with pytest.raises(InferenceServerException, match=r"START|not held"):
        call(model, chunk, protocol, sequence_id=identifier)
    for _ in range(2):  # again after the end: from the first step on
        result = call(model, chunk, protocol, sequence_id=identifier, sequence_start=True)
        np.testing.assert_allclose(result, truth[:, :2], atol=1e-6)
        call(model, chunk, protocol, sequence_id=identifier, sequence_end=True)
        with pytest.raises(InferenceServerException, match=r"START|not held"):
            call(model, chunk, protocol, sequence_id=identifier)


@pytest.mark.parametrize("model", ["oldest", "direct"])
def test_an_idle_stream_makes_room_and_is_lost(call, expected, model):
    x, truth = expected["x"][:1], expected["layers"][:1]
    for i in range(SLOTS):  # and none of them ends
        call(model, x[:, :2], sequence_id=500 + i, sequence_start=True)
    ends = {"sequence_start": True, "sequence_end": True}
    result = call(model, x[:, :2], sequence_id=600, **ends)  # waits for a place
    np.testing.assert_allclose(result, truth[:, :2], atol=1e-6)
    lost = 0
    for i in range(SLOTS):
        try:
            result = call(model, x[:, 2:4], sequence_id=500 + i, sequence_end=True)
        except InferenceServerException:
            lost += 1
        else:
            np.testing.assert_allclose(result, truth[:, 2:4], atol=1e-6)
    assert lost


@pytest.mark.parametrize("model", ["oldest", "direct", "whole"])
def test_a_bad_shape_is_an_error_and_the_server_lives_on(call, expected, model):
    x = expected["x"][:1]
    ends = {} if model == "whole" else {"sequence_start": True, "sequence_end": True}
    sequence = {} if model == "whole" else {"sequence_id": 800}
    with pytest.raises(InferenceServerException, match="shape"):
        call(model, x[..., :2], **sequence, **ends)
    truth = expected["whole_0" if model == "whole" else "layers"][:1]
    result = call(model, x, **sequence, **ends)
    np.testing.assert_allclose(result, truth, atol=1e-6)


def test_the_syntax_of_configurations_for_onnxruntime_is_accepted(tmp_path):
    """Nothing more: a state without data or a type gets as far."""
    with Server(MODELS / "onnxruntime", tmp_path) as server:
        with tritonclient.http.InferenceServerClient(server.http) as client:
            index = client.get_model_repository_index()
        assert "Poll failed" not in server.log.read_text()
    assert len(index) == 4
    for model in index:
        assert "unable to find backend library for backend 'onnxruntime'" in model["reason"], model
