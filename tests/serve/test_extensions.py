"""Triton's extensions of the protocol, by its own clients over both protocols, and gRPC's own."""

import gzip
import json
import queue
import shutil
import signal

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tritonclient.utils import InferenceServerException

from bnlstm_deploy.runtime import Session
from tests.serve.servers import export_small, running
from tests.serve.wire import binary, send

X = np.random.default_rng(0).standard_normal((2, 8, 3)).astype(np.float32)
SERVICE = "inference.GRPCInferenceService"
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """An exported model."""
    return export_small(tmp_path_factory.mktemp("extensions") / "small.onnx")


@pytest.fixture(scope="module")
def server(model_path):
    """One server for the tests that leave it running."""
    with running(model_path, "--max-queue", "50") as server:
        yield server


@pytest.fixture(scope="module")
def session(model_path):
    """The model without a server."""
    return Session(model_path, intra_op_num_threads=1)


@pytest.fixture(params=["http", "grpc"])
def client(server, request):
    """tritonclient over each protocol."""
    module = {"http": tritonclient.http, "grpc": tritonclient.grpc}[request.param]
    with module.InferenceServerClient(getattr(server, request.param)) as client:
        client.module = module
        client.as_json = {} if request.param == "http" else {"as_json": True}
        yield client


def given(module, array):
    tensor = module.InferInput("input", array.shape, "FP32")
    tensor.set_data_from_numpy(np.ascontiguousarray(array))
    return tensor


def test_the_configuration_is_tritons(client):
    config = client.get_model_config("small", **client.as_json)
    config = config.get("config", config)
    assert config["platform"] == "onnxruntime_onnx"
    first = config["input"][0]
    assert (first["name"], first["data_type"]) == ("input", "TYPE_FP32")
    assert [int(size) for size in first["dims"]] == [-1, -1, 3]
    assert [entry["name"] for entry in config["input"] if entry.get("optional")] == [
        *("initial_h", "initial_c", "lengths", "start_step")
    ]
    assert int(config.get("max_batch_size", 0)) == 0
    with pytest.raises(InferenceServerException, match="does not exist"):
        client.get_model_config("none")


def test_statistics_count_what_was_done(client):
    def stats():
        (found,) = client.get_inference_statistics("small", **client.as_json)["model_stats"]
        counts = found["inference_stats"]
        keys = ("success", "fail", "queue", "compute_infer")
        return [int(found.get(key, 0)) for key in ("inference_count", "execution_count")] + [
            int(counts.get(key, {}).get("count", 0)) for key in keys
        ]

    before = stats()
    client.infer("small", [given(client.module, X)])
    with pytest.raises(InferenceServerException):
        client.infer("small", [given(client.module, X)], sequence_id=5)
    grown = [after - now for after, now in zip(stats(), before, strict=True)]
    assert grown == [2, 1, 1, 1, 1, 1]
    everything = client.get_inference_statistics(**client.as_json)["model_stats"]
    assert [found["name"] for found in everything] == ["small"]


def test_the_index_lists_the_models_and_nobody_loads_them(client):
    index = client.get_model_repository_index(**client.as_json)
    (entry,) = index.get("models", ()) if isinstance(index, dict) else index
    assert (entry["name"], entry["version"], entry["state"]) == ("small", "1", "READY")
    for call in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="--model-control"):
            call("small")
    assert client.is_model_ready("small")
    assert not client.is_model_ready("none")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_models_are_loaded_and_unloaded_where_that_is_allowed(
    tmp_path, model_path, session, protocol
):
    module = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
    shutil.copy(model_path, tmp_path / "one.onnx")
    (tmp_path / "two.onnx").write_bytes(b"no")
    with (
        running(tmp_path, "--model-control") as server,
        module.InferenceServerClient(getattr(server, protocol)) as client,
    ):

        def states():
            as_json = {} if protocol == "http" else {"as_json": True}
            index = client.get_model_repository_index(**as_json)
            entries = index.get("models", ()) if isinstance(index, dict) else index
            return {entry["name"]: entry["state"] for entry in entries}

        assert "two.onnx" in server.wait_for("not served")["path"]
        assert client.is_server_ready()  # a damaged file of a folder stops no other
        assert states() == {"one": "READY", "two": "UNAVAILABLE"}
        with pytest.raises(InferenceServerException, match=r"two\.onnx"):
            client.load_model("two")
        shutil.copy(model_path, tmp_path / "two.onnx")
        client.load_model("two")
        assert states() == {"one": "READY", "two": "READY"}
        output = client.infer("two", [given(module, X)]).as_numpy("output")
        np.testing.assert_allclose(output, session(X)[0], **CLOSE)
        client.unload_model("one")
        assert states() == {"one": "UNAVAILABLE", "two": "READY"}
        with pytest.raises(InferenceServerException, match="does not exist"):
            client.infer("one", [given(module, X)])
        with pytest.raises(InferenceServerException, match="no files of a model"):
            client.load_model("three")
        client.load_model("one")
        assert client.is_model_ready("one")
        shutil.copy(model_path, tmp_path / "three.onnx")
        (tmp_path / "one.onnx").unlink()
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("reloaded", model="three")
        assert "no files of a model 'one'" in server.wait_for("not reloaded", model="one")["reason"]
        assert client.is_model_ready("one")  # as it was
        assert client.is_model_ready("three")


def stream(server, calls):
    """Send requests in one stream without waiting; return result or error of each, in order."""
    came = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: came.put((result, error)))
        for number, (array, options) in enumerate(calls):
            client.async_stream_infer(
                "small", [given(tritonclient.grpc, array)], request_id=str(number), **options
            )
        answers = [came.get(timeout=60) for _ in calls]
        client.stop_stream()
    return answers


def test_a_stream_carries_sequences_without_waiting(server, session):
    calls = []
    for step in range(8):
        for sequence in (1, "two"):
            ends = {"sequence_start": step == 0, "sequence_end": step == 7}
            calls.append((X[:, step : step + 1], {"sequence_id": sequence, **ends}))
    answers = stream(server, calls)
    assert [result.get_response().id for result, _ in answers] == [*map(str, range(16))]
    outputs = np.concatenate([result.as_numpy("output") for result, _ in answers[::2]], 1)
    np.testing.assert_allclose(outputs, session(X)[0], **CLOSE)
    outputs = np.concatenate([result.as_numpy("output") for result, _ in answers[1::2]], 1)
    np.testing.assert_allclose(outputs, session(X)[0], **CLOSE)


def test_after_a_failure_the_rest_of_a_sequence_fails_until_its_start(server, session):
    def chunk(step, **options):
        return X[:, step : step + 1], {"sequence_id": 9, **options}

    wrong = X[:, :1, :2], {"sequence_id": 9}
    calls = [
        chunk(0, sequence_start=True),
        wrong,
        chunk(1),
        chunk(2),
        chunk(0, sequence_start=True),
        chunk(1, sequence_end=True),
    ]
    answers = stream(server, calls)
    assert [error is None for _, error in answers] == [True, False, False, False, True, True]
    assert "before this one failed" in str(answers[2][1])
    output = np.concatenate([result.as_numpy("output") for result, _ in answers[-2:]], 1)
    np.testing.assert_allclose(output, session(X[:, :2])[0], **CLOSE)


def test_more_than_a_queue_holds_is_answered_in_a_stream(server, session):
    answers = stream(server, [(X, {}) for _ in range(300)])
    assert all(error is None for _, error in answers)
    np.testing.assert_allclose(answers[-1][0].as_numpy("output"), session(X)[0], **CLOSE)


def test_health_and_reflection(server):
    with grpc.insecure_channel(server.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            status = health.Check(health_pb2.HealthCheckRequest(service=service)).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
        assert SERVICE in services


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_bodies_may_be_compressed(server, session, algorithm):
    with tritonclient.http.InferenceServerClient(server.http) as client:
        result = client.infer(
            "small", [given(tritonclient.http, X)], request_compression_algorithm=algorithm
        )
    np.testing.assert_allclose(result.as_numpy("output"), session(X)[0], **CLOSE)


def test_what_is_compressed_is_checked(server):
    body, headers = binary({"input": X})
    path = "/v2/models/small/infer"
    packed = gzip.compress(body)
    for content, encoding, status, why in (
        (packed, "br", 400, "send gzip, deflate"),
        (body, "gzip", 400, "not gzip"),
        (packed[:-9], "gzip", 400, "not one whole gzip"),
        (packed + b"x", "gzip", 400, "not one whole gzip"),
        (gzip.compress(bytes(80_000_000)), "gzip", 413, "max_body"),
    ):
        answer = send(server.http, path, content, {**headers, "Content-Encoding": encoding})
        assert answer[0] == status
        assert why in answer[1]["error"]


def test_probes_may_ask_for_the_header_alone(server):
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert send(server.http, path, method="HEAD")[0] == 200


def test_metrics_answer_whatever_is_accepted(server):
    for accept in ("application/openmetrics-text;version=x", "text/html", ""):
        status, text, _ = send(server.http, "/metrics", headers={"Accept": accept})
        assert status == 200
        assert b"bnlstm_executions_total" in text


def test_a_step_near_the_end_of_64_bits_is_refused(server):
    body, headers = binary({"input": X[:1], "start_step": np.array([2**63 - 2])})
    status, answer, _ = send(server.http, "/v2/models/small/infer", body, headers)
    assert status == 400
    assert "start_step" in answer["error"]


def test_another_sites_name_for_this_machine_is_refused(server):
    for host, status in (
        ("evil.example", 421),
        ("127.0.0.1.evil.example:80", 421),
        ("localhost:1", 200),
        ("[::1]:8080", 200),
        ("127.0.0.1", 200),
    ):
        assert send(server.http, "/v2/health/live", headers={"Host": host})[0] == status


def test_refused_tokens_are_counted_and_logged(model_path):
    with running(model_path, token="secret") as server:
        assert send(server.http, "/v2/models/small")[0] == 401
        with (
            tritonclient.grpc.InferenceServerClient(server.grpc) as client,
            pytest.raises(InferenceServerException, match="has no token"),
        ):
            client.infer("small", [given(tritonclient.grpc, X)])
        for protocol in ("rest", "grpc"):
            assert server.wait_for("request", protocol=protocol)["reason"] == "token"
        bearer = {"Authorization": "Bearer secret"}
        metrics = server.metrics(**bearer)
    failures = 'bnlstm_request_failures_total{model="",reason="token",version=""}'
    assert metrics[failures] == 2


def test_a_model_whose_file_is_gone_is_shown_all_the_same(tmp_path, model_path):
    path = tmp_path / "small.onnx"
    shutil.copy(model_path, path)
    with running(path) as server:
        path.unlink()
        status, shown, _ = send(server.http, "/page/models")
        assert status == 200
        assert shown["models"][0]["file"] == {"name": "small.onnx", "bytes": None}
        assert json.dumps(shown)
