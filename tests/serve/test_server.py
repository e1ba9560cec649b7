"""A server in a process of its own: real clients over REST, faults, and its end."""

import http.client
import json
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from bnlstm_deploy.runtime import Session
from tests.serve.servers import export_small, running
from tests.serve.wire import binary, send, tensor

X = np.random.default_rng(0).standard_normal((2, 7, 3)).astype(np.float32)
INFER = "/v2/models/small/infer"


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """An exported model."""
    return export_small(tmp_path_factory.mktemp("server") / "small.onnx")


@pytest.fixture(scope="module")
def server(model_path):
    """One server for the tests that leave it running."""
    with running(model_path, "--max-body", "100000", "--max-time", "2000") as server:
        yield server


@pytest.fixture(scope="module")
def session(model_path):
    """The model without a server."""
    return Session(model_path, intra_op_num_threads=1)


@pytest.fixture
def client(server):
    """tritonclient."""
    client = triton.InferenceServerClient(server.http)
    yield client
    client.close()


def triton_input(name, array, *, binary_data=True):
    given = triton.InferInput(name, array.shape, {"f": "FP32", "i": "INT64"}[array.dtype.kind])
    given.set_data_from_numpy(array, binary_data=binary_data)
    return given


def test_tritonclient_finds_server_and_model(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("small")
    assert client.is_model_ready("small", "1")
    assert not client.is_model_ready("small", "2")
    assert client.get_server_metadata()["extensions"] == [
        *("binary_tensor_data", "sequence", "statistics", "model_repository", "model_configuration")
    ]
    metadata = client.get_model_metadata("small")
    assert metadata["platform"] == "onnxruntime_onnx"
    assert metadata["inputs"][0] == {"name": "input", "datatype": "FP32", "shape": [-1, -1, 3]}


@pytest.mark.parametrize("binary_data", [True, False])
def test_tritonclient_infers(client, session, binary_data):
    expected = session.run({"input": X, "lengths": np.array([7, 3])})
    inputs = [
        triton_input("input", X, binary_data=binary_data),
        triton_input("lengths", np.array([7, 3]), binary_data=binary_data),
    ]
    wanted = [triton.InferRequestedOutput(name, binary_data) for name in ("h_n", "output")]
    result = client.infer("small", inputs, outputs=wanted, request_id="7", model_version="1")
    assert result.get_response()["id"] == "7"
    for name in ("h_n", "output"):
        np.testing.assert_allclose(result.as_numpy(name), expected[name], rtol=1e-5, atol=1e-6)
    every = client.infer("small", inputs)
    assert every.as_numpy("next_step").tolist() == [7, 3]


def test_tritonclient_streams_by_sequence_and_keeps_nan(client, session):
    expected = session.run({"input": X[:1]})["h_n"]
    for start in range(7):
        chunk = triton_input("input", X[:1, start : start + 1])
        options = {"sequence_start": start == 0, "sequence_end": start == 6}
        result = client.infer("small", [chunk], sequence_id="a", **options)
    np.testing.assert_allclose(result.as_numpy("h_n"), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(InferenceServerException, match="sequence"):
        client.infer("small", [chunk], sequence_id="a")
    nan = client.infer("small", [triton_input("input", np.full_like(X, np.nan))])
    assert np.isnan(nan.as_numpy("output")).all()


def test_kserve_client_infers(server, session):
    command = [sys.executable, "-m", "tests.serve.kserve_rest", f"http://{server.http}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    expected = session.run({"input": X})["output"]
    for output in json.loads(result.stdout):
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def test_clients_at_the_same_time_each_get_their_own(server, session):
    generator = np.random.default_rng(1)
    sizes = [(int(n), int(t), 3) for n, t in generator.integers(1, 30, (40, 2))]
    arrays = [generator.standard_normal(size).astype(np.float32) for size in sizes]

    def infer(x):
        body, headers = binary({"input": x}, outputs=[{"name": "h_n"}])
        status, answer, _ = send(server.http, INFER, body, headers)
        assert status == 200, answer
        return np.array(answer["outputs"][0]["data"], np.float32)

    with ThreadPoolExecutor(16) as threads:
        for x, h_n in zip(arrays, threads.map(infer, arrays), strict=True):
            expected = session.run({"input": x})["h_n"]
            np.testing.assert_allclose(h_n, expected.ravel(), rtol=1e-4, atol=1e-5)


def test_the_page_and_metrics_are_there(server):
    status, page, headers = send(server.http, "/")
    assert status == 200
    assert headers.get_content_type() == "text/html"
    assert b"<html" in page
    before = server.metrics()
    assert send(server.http, INFER, {"inputs": [tensor("input", X)]})[0] == 200
    assert send(server.http, INFER, {"inputs": []})[0] == 400
    assert send(server.http, "/v2/models/" + "x" * 50 + "/infer", {})[0] == 404
    after = server.metrics()
    labels = '{model="small",version="1"}'

    def grown(name):
        return after.get(name, 0) - before.get(name, 0)

    assert grown(f"bnlstm_requests_total{labels}") == 2
    assert grown(f"bnlstm_inferences_total{labels}") == 2
    assert grown(f"bnlstm_executions_total{labels}") == 1
    assert grown(f"bnlstm_request_seconds_count{labels}") == 1
    for name in ("bnlstm_queue_seconds", "bnlstm_compute_seconds"):
        assert grown(f"{name}_sum{labels}") > 0
        assert grown(f"{name}_count{labels}") == 1
    failures = "bnlstm_request_failures_total"
    assert grown(f'{failures}{{model="small",reason="invalid",version="1"}}') == 1
    assert grown(f'{failures}{{model="",reason="unknown_model",version=""}}') == 1
    assert not any("xxx" in name for name in after)


def test_logs_have_requests_and_no_data(server):
    x = np.full((1, 1, 3), 0.123456789, np.float32)
    send(server.http, INFER, {"id": "number one", "inputs": [tensor("input", x)]})
    line = server.wait_for("request", id="number one")
    assert line["model"] == "small"
    assert line["status"] == 200
    assert line["protocol"] == "rest"
    assert line["seconds"] > 0
    bad = {"id": "bad\n", "inputs": [tensor("input", x, datatype="FP64")]}
    send(server.http, INFER, bad)
    assert server.wait_for("request", id="bad\n")["reason"] == "invalid"
    assert "0.1234" not in json.dumps(server.lines)


def test_a_large_body_is_refused_while_it_comes(server):
    status, answer, _ = send(server.http, INFER, b"x" * 100_001)
    assert status == 413
    assert "100000" in answer["error"]
    connection = http.client.HTTPConnection(server.http)
    connection.request("POST", INFER, iter([b"x" * 60_000] * 3), encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


POST = b"POST /v2/models/small/infer HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\xff\x00\r\n\r\n",
        b"GET\r\n\r\n",
        POST + b"Content-Length: -5\r\n\r\n",
        POST + b"Content-Length: " + b"9" * 5000,
        POST + b"Transfer-Encoding: chunked\r\n\r\nx",
        POST + b"Content-Length: 9\r\n\r\n{",
    ],
)
def test_what_is_no_http_harms_nobody(server, client, sent):
    host, port = server.http.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(30)
        answer = connection.recv(1000)
    assert not answer or answer.split()[1] == b"400"
    assert client.is_server_ready()


def test_slow_clients_keep_nobody_waiting(server):
    host, port = server.http.split(":")
    body, headers = binary({"input": X})
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    start = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{head}\r\n"
    slow = [socket.create_connection((host, int(port))) for _ in range(20)]
    for connection in slow:
        connection.sendall(start.encode() + body[:10])
    assert send(server.http, INFER, body, headers)[0] == 200
    for connection in slow:
        connection.sendall(body[10:])
        connection.settimeout(30)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.close()


def test_a_client_that_leaves_harms_nobody(server, session):
    host, port = server.http.split(":")
    x = np.zeros((1, 2000, 3), np.float32)
    body, headers = binary({"input": x})
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    start = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{head}\r\n"
    for _ in range(10):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(start.encode() + body)
    status, answer, _ = send(server.http, INFER, {"inputs": [tensor("input", X)]})
    assert status == 200
    expected = session.run({"input": X})["output"].ravel()
    np.testing.assert_allclose(answer["outputs"][0]["data"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "time", [0, *(pytest.param(time, marks=pytest.mark.slow) for time in range(1, 20))]
)
def test_sigterm_under_load_answers_all_that_was_accepted(model_path, time):
    del time  # how often it was tried
    x = np.zeros((4, 2000, 3), np.float32)
    body, headers = binary({"input": x}, outputs=[{"name": "h_n"}])
    answers = []
    with running(model_path, "--max-batch", "8") as server:
        address, end = server.http, threading.Event()

        def load(worker):
            number = 0
            while not end.is_set():
                name = f"{worker}-{number}"
                try:
                    answers.append(
                        (name, send(address, INFER, body, {**headers, "X-Request-Id": name})[0])
                    )
                except OSError:
                    answers.append((name, None))
                    return
                number += 1

        with ThreadPoolExecutor(12) as threads:
            for worker in range(12):
                threads.submit(load, worker)
            while server.metrics()['bnlstm_requests_total{model="small",version="1"}'] < 30:
                threading.Event().wait(0.05)
            server.stop()
            server.wait_for("draining")
            assert server.process.wait(60) == 0
            end.set()
    logged = {line["id"]: line["status"] for line in server.lines if line["event"] == "request"}
    seen = dict(answers)
    assert {*seen.values()} <= {200, 503, None}
    assert {name: seen[name] for name in logged} == logged
    assert [*seen.values()].count(200) >= 30
    assert server.lines[-1]["event"] == "stopped"
    assert server.lines[-1]["answered_all"] is True


def test_without_the_token_only_probes_and_the_page_answer(model_path):
    with running(model_path, token="secret") as server:
        request = {"inputs": [tensor("input", X)]}
        bearer = {"Authorization": "Bearer secret"}
        for path in ("/v2/health/live", "/v2/health/ready", "/"):
            assert send(server.http, path)[0] == 200
        for path in ("/v2", "/v2/models/small", "/metrics", "/page/models"):
            assert send(server.http, path)[0] == 401
            assert send(server.http, path, headers=bearer)[0] == 200
        assert send(server.http, INFER, request)[0] == 401
        assert send(server.http, INFER, request, {"Authorization": "Bearer Secret"})[0] == 401
        assert send(server.http, INFER, request, bearer)[0] == 200
        assert "secret" not in json.dumps(server.lines)
