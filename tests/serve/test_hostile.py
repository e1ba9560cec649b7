"""Clients that mean harm: what one of them sends costs the others nothing, and no memory stays."""

import contextlib
import json
import os
import resource
import socket
import subprocess
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from bnlstm_deploy.serve.http import HEADER_BYTES
from bnlstm_deploy.serve.messages import MOST_FIELDS, MOST_STRUCTURE
from tests.serve.servers import COMMAND, export_small, running
from tests.serve.wire import binary, send, tensor

pytestmark = pytest.mark.slow

MB = 2**20
INFER = "/v2/models/small/infer"
GOOD = {"inputs": [tensor("input", np.zeros((1, 2, 3), np.float32))]}


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """An exported model."""
    return export_small(tmp_path_factory.mktemp("hostile") / "small.onnx")


@pytest.fixture(scope="module")
def server(model_path):
    """A server as it is by default."""
    with running(model_path) as server:
        yield server


def memory(server, field="VmRSS"):
    """Return the resident bytes of a server, or with VmHWM the most there ever were."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise AssertionError(field)


def at_rest(server):
    """Return the resident bytes of a server; VmHWM counts anew, for tests share the server."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    return memory(server)


def answers(server):
    status, content, _ = send(server.http, INFER, GOOD)
    return status == 200 and np.isfinite(content["outputs"][0]["data"]).all()


SHAPES = {
    "numbers": lambda n: b"[" + b"0.1234567," * (n // 10) + b"1]",
    "empty lists": lambda n: b"[" + b"[]," * (n // 3) + b"1]",
    "nested lists": lambda n: b"[" * (n // 2) + b"]" * (n // 2),
    "strings": lambda n: b"[" + b'"",' * (n // 3) + b"1]",
    "one string": lambda n: b'"' + b"x" * n + b'"',
    "objects": lambda n: b"[" + b'{"name":"y"},' * (n // 13) + b"{}]",
}
PLACES = {
    "data": b'{"inputs":[{"name":"input","shape":[1,2,3],"datatype":"FP32","data":%b}]}',
    "shape": b'{"inputs":[{"name":"input","shape":%b,"datatype":"FP32","data":[1]}]}',
    "outputs": b'{"inputs":[{"name":"input","shape":[1,2,3],"datatype":"FP32","data":[1]}],'
    b'"outputs":%b}',
    "parameters": b'{"inputs":[{"name":"input","shape":[1,2,3],"datatype":"FP32","data":[1],'
    b'"parameters":{"x":%b}}]}',
    "anywhere": b'{"x":%b,"inputs":[{"name":"input","shape":[1,2,3],"datatype":"FP32"}]}',
}


@pytest.mark.parametrize("shape", SHAPES)
def test_json_costs_no_more_than_its_bytes(server, shape):
    before = at_rest(server)
    for place in PLACES.values():
        for size, status in ((64_000_000, 413), (20_000_000, 413), (15_000_000, 400)):
            body = place % SHAPES[shape](size)
            assert send(server.http, INFER, body)[0] == status
    assert memory(server, "VmHWM") - before < 256 * MB
    assert memory(server) - before < 64 * MB
    assert answers(server)


def bombs():
    """Streams and timesteps of requests that are small and would cost much."""
    return [(64, 16384), (100_000, 1), (1_000_000, 1), (1, 10**6), (3000, 500)]


def test_what_a_run_would_take_is_known_before_it_runs(model_path):
    """Under a limit of the system's that any of these would break."""
    with running(
        model_path, "--max-run", str(16 * MB), limits={resource.RLIMIT_AS: 6 * 2**30}
    ) as server:
        before = at_rest(server)
        for streams, time in bombs():
            body, headers = binary({"input": np.zeros((streams, time, 3), np.float32)})
            status, content, _ = send(server.http, INFER, body, headers)
            assert status == 400
            assert "max_run" in content["error"] or "max_time" in content["error"]
        assert memory(server, "VmHWM") - before < 96 * MB
        assert answers(server)


@pytest.mark.parametrize("native", [True, False])
def test_the_largest_run_takes_what_it_may_and_keeps_little(tmp_path, native):
    import torch

    from bnlstm_deploy.exporting import export
    from bnlstm_deploy.nn import BNLSTM
    from bnlstm_deploy.runtime import Session
    from tests.models import randomize

    path, most = tmp_path / "small.onnx", 128 * MB
    torch.manual_seed(0)
    export(randomize(BNLSTM(3, 32, batch_first=True, max_length=6)), path)
    signature = Session(path).signature
    shapes = [(1, 100)]
    for time in (16000, 1):
        largest = [n for n in range(18) if signature.run_bytes(2**n, time) <= most][-1]
        shapes.append((2**largest, time))
    with running(path, "--max-run", str(most), *(() if native else ("--no-native",))) as server:
        before = at_rest(server)
        for streams, time in 3 * shapes:
            body, headers = binary(
                {"input": np.zeros((streams, time, 3), np.float32)},
                parameters={"binary_data_output": True},
            )
            assert send(server.http, INFER, body, headers)[0] == 200
        assert memory(server, "VmHWM") - before < 2 * most
        assert memory(server) - before < most


def field(number, content):
    """Return a field of a protobuf message."""
    length, rest = bytearray(), len(content)
    while rest > 127:
        length.append(rest & 127 | 128)
        rest >>= 7
    return bytes([number << 3 | 2]) + bytes(length) + bytes([rest]) + content


NAME = field(1, b"small")
MESSAGES = {
    "binary": NAME + field(7, bytes(30 * MB)),
    "inputs": NAME + field(5, b"") * (2 * MB),
    "parameters": NAME + field(4, b"") * (2 * MB),
    "parameters of an input": NAME + field(5, field(4, b"") * (2 * MB)),
    "strings": NAME + field(5, field(5, field(8, b"") * (2 * MB))),
    "numbers": NAME + field(5, field(5, field(6, bytes(30 * MB)))),
    "other numbers": NAME + field(5, field(5, field(3, bytes(4 * MB)))),
    "a field that does not end": NAME + b"\x2a" + b"\xff" * 9 + b"\x01",
    "a number that does not end": NAME + b"\x08" + b"\xff" * MB,
    "no message": b"\x0f" * 100,
}


def test_messages_cost_no_more_than_their_bytes(server):
    before = at_rest(server)
    with grpc.insecure_channel(
        server.grpc, options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for message in 3 * [*MESSAGES.values()]:
            with pytest.raises(grpc.RpcError) as caught:
                infer(message, timeout=60)
            assert caught.value.code().name in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
        request = pb.ModelInferRequest(model_name="small", id="x" * (MOST_STRUCTURE + 1))
        with pytest.raises(grpc.RpcError, match="beside raw_input_contents"):
            infer(request.SerializeToString(), timeout=60)
        outputs = [{"name": "y" * (MOST_STRUCTURE // MOST_FIELDS)}] * (MOST_FIELDS + 1)
        request = pb.ModelInferRequest(model_name="small", outputs=outputs)
        with pytest.raises(grpc.RpcError, match="more than 1000 fields"):
            infer(request.SerializeToString(), timeout=60)
    assert memory(server, "VmHWM") - before < 384 * MB
    assert answers(server)


def test_a_thousand_idle_connections_harm_nobody(server):
    host, port = server.http.split(":")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(socket.create_connection((host, int(port))))
        assert answers(server)
        assert server.metrics()["bnlstm_connections"] > 1000


def test_headers_without_end_take_no_memory(server):
    host, port = server.http.split(":")
    before = at_rest(server)
    for _ in range(20):
        with (
            socket.create_connection((host, int(port))) as connection,
            contextlib.suppress(OSError),  # it is closed before all is sent
        ):
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
            for _ in range(200):
                connection.sendall(b"x" * MB)
    assert memory(server, "VmHWM") - before < 64 * MB + 20 * HEADER_BYTES
    assert answers(server)


def test_without_file_descriptors_it_says_so_and_goes_on_later(model_path):
    with running(model_path, limits={resource.RLIMIT_NOFILE: 100}) as server:
        host, port = server.http.split(":")
        with contextlib.ExitStack() as stack:
            for _ in range(150):
                stack.enter_context(socket.create_connection((host, int(port))))
            assert server.wait_for("out of file descriptors")["open"] > 50
        while True:  # until those that have left are noticed
            with contextlib.suppress(OSError):
                if answers(server):
                    break
        assert server.metrics()["bnlstm_connections_refused_total"] > 0


@pytest.mark.parametrize("closed", [True, False])
def test_a_log_that_nobody_reads_stops_no_request(model_path, closed):
    """Its pipe is closed, or full."""
    ports = ("--http-port", "0", "--grpc-port", "0", "--threads", "1")
    environment = {**os.environ, "BNLSTM_DEPLOY_TOKEN": ""}
    del environment["BNLSTM_DEPLOY_TOKEN"]
    process = subprocess.Popen(
        [*COMMAND, "serve", str(model_path), *ports], stderr=subprocess.PIPE, env=environment
    )
    assert process.stderr is not None
    try:
        events = {}
        while "ready" not in events:
            line = json.loads(process.stderr.readline())
            events[line["event"]] = line
        if closed:
            process.stderr.close()
        address = events["listening"]["http"].removeprefix("http://")
        for _ in range(1500):  # of which a pipe takes 400
            assert send(address, INFER, GOOD)[0] == 200
        assert send(address, "/v2/health/live")[0] == 200
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
