"""gRPC of a server in a process of its own: tritonclient, and requests that it would not send."""

import json
import subprocess
import sys

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from bnlstm_deploy.runtime import Session
from tests.serve.servers import export_small, running

CODE = grpc.StatusCode
X = np.random.default_rng(0).standard_normal((2, 7, 3)).astype(np.float32)  # as triton_grpc has it
RAW = X.tobytes()


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """An exported model."""
    return export_small(tmp_path_factory.mktemp("rpc") / "small.onnx")


@pytest.fixture(scope="module")
def server(model_path):
    """One server for the tests that leave it running."""
    with running(model_path, "--max-body", "100000", "--max-batch", "1") as server:
        yield server


@pytest.fixture(scope="module")
def stub(server):
    """The service's methods."""
    with grpc.insecure_channel(server.grpc) as channel:
        yield GRPCInferenceServiceStub(channel)


def tritonclient(*arguments):
    command = [sys.executable, "-m", "tests.serve.triton_grpc", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_tritonclient_infers_and_streams(server, model_path):
    got = tritonclient(server.grpc)
    assert [got[name] for name in ("live", "ready", "model ready", "version ready")] == [True] * 4
    assert got["server"]["name"] == "bnlstm-deploy"
    assert got["model"]["versions"] == ["1"]
    assert got["model"]["inputs"][0] == {
        "name": "input",
        "datatype": "FP32",
        "shape": ["-1", "-1", "3"],
    }
    assert got["id"] == "7"
    expected = Session(model_path, intra_op_num_threads=1).run({"input": X})
    assert got["outputs"].keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(got["outputs"][name], array, rtol=1e-5, atol=1e-6)
    assert got["wanted"] == ["h_n"]
    for sequence in ("sequence 7", "sequence 'seven'"):
        np.testing.assert_allclose(got[sequence], expected["h_n"], rtol=1e-4, atol=1e-5)
    assert got["unknown sequence"] == "StatusCode.FAILED_PRECONDITION"


def request(**fields):
    tensor = {"name": "input", "datatype": "FP32", "shape": X.shape} | fields.pop("tensor", {})
    fields = {"model_name": "small", "inputs": [tensor], "raw_input_contents": [RAW]} | fields
    return pb.ModelInferRequest(**fields)


def test_tensors_may_be_typed_too_and_nan_stays_nan(stub, model_path):
    typed = {"contents": {"fp32_contents": X.ravel().tolist()}}
    answer = stub.ModelInfer(request(tensor=typed, raw_input_contents=[]))
    expected = Session(model_path, intra_op_num_threads=1).run({"input": X})
    output = np.frombuffer(answer.raw_output_contents[0], np.float32)
    np.testing.assert_allclose(output, expected["output"].ravel(), rtol=1e-5, atol=1e-6)
    nan = np.full_like(X, np.nan).tobytes()
    answer = stub.ModelInfer(request(raw_input_contents=[nan]))
    assert np.isnan(np.frombuffer(answer.raw_output_contents[0], np.float32)).all()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model_name": "x"}, CODE.NOT_FOUND),
        ({"model_version": "2"}, CODE.NOT_FOUND),
        ({"inputs": [], "raw_input_contents": []}, CODE.INVALID_ARGUMENT),
        ({"raw_input_contents": []}, CODE.INVALID_ARGUMENT),
        ({"raw_input_contents": [RAW, RAW]}, CODE.INVALID_ARGUMENT),
        ({"raw_input_contents": [RAW[1:]]}, CODE.INVALID_ARGUMENT),
        ({"tensor": {"name": "x"}}, CODE.INVALID_ARGUMENT),
        ({"tensor": {"datatype": "FP64"}}, CODE.INVALID_ARGUMENT),
        ({"tensor": {"datatype": "BF16"}}, CODE.INVALID_ARGUMENT),
        ({"tensor": {"datatype": ""}}, CODE.INVALID_ARGUMENT),
        ({"tensor": {"shape": [-2, -7, 3]}}, CODE.INVALID_ARGUMENT),
        ({"tensor": {"shape": [2**62, 2**62, 3]}}, CODE.INVALID_ARGUMENT),
        ({"tensor": {"shape": []}}, CODE.INVALID_ARGUMENT),
        ({"outputs": [{"name": "x"}]}, CODE.INVALID_ARGUMENT),
        ({"parameters": {"sequence_start": {"bool_param": True}}}, CODE.INVALID_ARGUMENT),
        ({"parameters": {"sequence_id": {"bool_param": True}}}, CODE.INVALID_ARGUMENT),
        ({"parameters": {"sequence_id": {"int64_param": 9}}}, CODE.FAILED_PRECONDITION),
        ({"raw_input_contents": [bytes(200_000)]}, CODE.RESOURCE_EXHAUSTED),
    ],
)
def test_a_bad_request_has_its_status(stub, fields, code):
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request(**fields))
    assert caught.value.code() == code, caught.value


def test_models_are_neither_loaded_nor_unloaded(stub):
    for method, kind in (
        (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest),
        (stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            method(kind(model_name="small"))
        assert caught.value.code() == CODE.INVALID_ARGUMENT
    assert stub.ModelReady(pb.ModelReadyRequest(name="small")).ready
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelMetadata(pb.ModelMetadataRequest(name="small", version="7"))
    assert caught.value.code() == CODE.NOT_FOUND


REFUSED = (CODE.INVALID_ARGUMENT, CODE.NOT_FOUND, CODE.FAILED_PRECONDITION, CODE.UNAVAILABLE)

NAMES = st.sampled_from(["input", "lengths", "initial_h", "", "x"])
TENSORS = st.fixed_dictionaries(
    {
        "name": NAMES,
        "datatype": st.sampled_from(["FP32", "INT64", "FP16", "BF16", "BYTES", "fp32", ""]),
        "shape": st.lists(st.integers(-2, 3) | st.integers(-(2**63), 2**63 - 1), max_size=4),
    },
    optional={
        "contents": st.fixed_dictionaries(
            {},
            optional={
                "fp32_contents": st.lists(st.floats(width=32), max_size=9),
                "int64_contents": st.lists(st.integers(-9, 9), max_size=3),
                "bytes_contents": st.lists(st.binary(max_size=3), max_size=3),
            },
        )
    },
)
PARAMETERS: st.SearchStrategy[dict[str, dict[str, object]]] = st.dictionaries(
    st.sampled_from(["sequence_id", "sequence_start", "sequence_end", "x"]),
    st.one_of(
        st.builds(dict, int64_param=st.integers(-(2**63), 2**63 - 1)),
        st.builds(dict, bool_param=st.booleans()),
        st.builds(dict, string_param=st.text(max_size=3)),
        st.just({}),
    ),
    max_size=3,
)


@pytest.mark.slow
@settings(max_examples=300)
@given(
    inputs=st.lists(TENSORS, max_size=2),
    raw=st.lists(st.sampled_from([b"", bytes(12), bytes(36), bytes(7)]), max_size=2),
    parameters=PARAMETERS,
    outputs=st.lists(NAMES.map(lambda name: {"name": name}), max_size=2),
)
def test_no_message_is_an_error_of_the_server(stub, inputs, raw, parameters, outputs):
    asked = pb.ModelInferRequest(
        model_name="small",
        inputs=inputs,
        raw_input_contents=raw,
        parameters=parameters,
        outputs=outputs,
    )
    assert stub.ModelInfer.future(asked).code() in (CODE.OK, *REFUSED)


def test_after_all_that_nothing_was_internal(server, stub):
    assert stub.ModelInfer(request()).outputs
    assert not any('reason="internal"' in name for name in server.metrics())


def test_a_client_that_leaves_cancels_its_request(model_path):
    one = {"tensor": {"shape": (1, 7, 3)}, "raw_input_contents": [X[:1].tobytes()]}
    with (
        running(model_path, "--max-batch", "2", "--max-wait", "3600") as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        left = stub.ModelInfer.future(request(id="left", **one))
        while not any("queued" in name and value for name, value in server.metrics().items()):
            assert not left.done()  # it waits an hour for a second stream
        left.cancel()
        assert server.wait_for("request", id="left")["reason"] == "cancelled"
        assert stub.ModelInfer(request()).outputs  # a batch by itself


def test_without_the_token_only_probes_answer(model_path):
    with running(model_path, token="secret") as server:
        with grpc.insecure_channel(server.grpc) as channel:
            stub = GRPCInferenceServiceStub(channel)
            assert stub.ServerLive(pb.ServerLiveRequest()).live
            assert stub.ServerReady(pb.ServerReadyRequest()).ready
            for metadata in (None, [("authorization", "Bearer Secret")]):
                for method, message in (
                    (stub.ModelInfer, request()),
                    (stub.ModelMetadata, pb.ModelMetadataRequest(name="small")),
                    (stub.ServerMetadata, pb.ServerMetadataRequest()),
                ):
                    with pytest.raises(grpc.RpcError) as caught:
                        method(message, metadata=metadata)
                    assert caught.value.code() == CODE.UNAUTHENTICATED
        assert tritonclient(server.grpc, "secret")["ready"]


def chunk(**fields):
    parameters = {"sequence_id": {"int64_param": 5}} | fields.pop("parameters", {})
    return request(parameters=parameters, **fields)


@pytest.mark.parametrize(
    "bad",
    [
        chunk(raw_input_contents=[RAW[1:]]).SerializeToString(),
        chunk(tensor={"datatype": "FP64"}).SerializeToString(),
        chunk(model_name="x").SerializeToString(),
        chunk(parameters={"sequence_id": {"bool_param": True}}).SerializeToString(),
        b"\xff" * 9,
    ],
)
def test_no_chunk_of_a_stream_is_computed_after_one_that_could_not_be(server, bad):
    """They were sent before the client knew; the state that they went on from would lack it."""
    begin = chunk(parameters={"sequence_start": {"bool_param": True}}).SerializeToString()
    goes_on = chunk().SerializeToString()
    with grpc.insecure_channel(server.grpc) as channel:
        stream = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        sent = [begin, goes_on, bad, goes_on, goes_on, begin, goes_on]
        errors = [answer.error_message for answer in stream(iter(sent))]
    assert [bool(error) for error in errors] == [False, False, True, True, True, False, False]
    assert all("send the sequence anew" in error for error in errors[3:5])
