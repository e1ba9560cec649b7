"""The REST application in this process: protocol, versions, errors, and whatever may be sent."""

import asyncio
import json
from concurrent.futures import Future

import numpy as np
import pytest

from bnlstm_deploy.errors import DeadlineError, OverloadedError, SequenceError
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.serve.app import create_app
from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.limits import Limits
from bnlstm_deploy.serve.settings import Settings
from bnlstm_deploy.signature import Array
from tests.serve.local import Client, serving
from tests.serve.servers import export_small
from tests.serve.wire import JSON_LENGTH, binary, tensor

INFER = "/v2/models/m/infer"
X = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Two models, exported."""
    folder = tmp_path_factory.mktemp("models")
    return {seed: export_small(folder / f"{seed}.onnx", seed) for seed in (1, 2)}


@pytest.fixture(scope="module")
def client(paths):
    """A client of a server with the versions 1 and 2 of `m`."""
    limits = Limits(max_time=20, max_batch=8)
    engines = [Engine(paths[i], name="m", version=str(i), threads=1, limits=limits) for i in (2, 1)]
    with serving(engines, Settings(limits)) as client:
        yield client


@pytest.fixture(scope="module")
def expected(paths):
    """The outputs for X of each version."""
    return {version: Session(path).run({"input": X}) for version, path in paths.items()}


def outputs(answer):
    assert answer.status_code == 200, answer.text
    return {
        output["name"]: np.array(output["data"], np.float32).reshape(output["shape"])
        for output in answer.json()["outputs"]
    }


def test_the_server_says_what_it_is_and_has(client):
    assert client.get("/v2").json()["name"] == "bnlstm-deploy"
    assert client.get("/v2/models").json() == {"models": ["m"]}
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/m/ready"):
        assert client.get(path).status_code == 200
    described = client.get("/v2/models/m").json()
    assert described["versions"] == ["1", "2"]
    assert described["inputs"][0] == {"name": "input", "datatype": "FP32", "shape": [-1, -1, 3]}
    assert [entry["name"] for entry in described["inputs"][1:]] == [
        *("initial_h", "initial_c", "lengths", "start_step")
    ]
    assert [entry["name"] for entry in described["outputs"]] == [
        "output",
        "h_n",
        "c_n",
        "next_step",
    ]
    assert client.get("/v2/models/m/versions/1/ready").status_code == 200


def test_the_highest_version_answers_unless_another_is_asked_for(client, expected):
    body = {"id": "7", "inputs": [tensor("input", X)]}
    for path, version in (
        ("/v2/models/m", 2),
        ("/v2/models/m/versions/2", 2),
        ("/v2/models/m/versions/1", 1),
    ):
        answer = client.post(f"{path}/infer", json=body)
        np.testing.assert_allclose(
            outputs(answer)["output"], expected[version]["output"], rtol=1e-5
        )
        assert answer.json()["model_version"] == str(version)
        assert answer.json()["id"] == "7"


def test_tensors_are_flat_or_nested_or_binary(client, expected):
    nested = {"inputs": [tensor("input", X, data=X.tolist())]}
    np.testing.assert_allclose(
        outputs(client.post(INFER, json=nested))["h_n"], expected[2]["h_n"], rtol=1e-5
    )
    body, headers = binary({"input": X}, parameters={"binary_data_output": True})
    answer = client.post(INFER, content=body, headers=headers)
    end = int(answer.headers[JSON_LENGTH])
    names = [output["name"] for output in json.loads(answer.content[:end])["outputs"]]
    assert names == ["output", "h_n", "c_n", "next_step"]
    output = np.frombuffer(answer.content[end:], np.float32, expected[2]["output"].size)
    np.testing.assert_allclose(output, expected[2]["output"].ravel(), rtol=1e-5)


def test_outputs_are_chosen_and_each_is_binary_or_not(client, expected):
    wanted = [{"name": "next_step"}, {"name": "h_n", "parameters": {"binary_data": True}}]
    answer = client.post(INFER, json={"inputs": [tensor("input", X)], "outputs": wanted})
    end = int(answer.headers[JSON_LENGTH])
    first, second = json.loads(answer.content[:end])["outputs"]
    assert first["data"] == [5, 5]
    assert second["parameters"] == {"binary_data_size": expected[2]["h_n"].nbytes}
    h_n = np.frombuffer(answer.content[end:], np.float32)
    np.testing.assert_allclose(h_n, expected[2]["h_n"].ravel(), rtol=1e-5)


def test_chunks_with_their_state_are_the_whole_sequence(client, expected):
    state = []
    for chunk in (X[:, :2], X[:, 2:]):
        body = {"inputs": [tensor("input", np.ascontiguousarray(chunk)), *state]}
        answer = client.post(INFER, json=body).json()
        names = {"h_n": "initial_h", "c_n": "initial_c", "next_step": "start_step"}
        state = [
            output | {"name": names[output["name"]]}
            for output in answer["outputs"]
            if output["name"] in names
        ]
    np.testing.assert_allclose(state[0]["data"], expected[2]["h_n"].ravel(), rtol=1e-5, atol=1e-6)


def test_chunks_of_a_sequence_are_the_whole_sequence(client, expected):
    for number, chunk in enumerate((X[:1, :2], X[:1, 2:])):
        parameters = {
            "sequence_id": "s",
            "sequence_start": number == 0,
            "sequence_end": number == 1,
        }
        body = {"inputs": [tensor("input", np.ascontiguousarray(chunk))], "parameters": parameters}
        answer = client.post(INFER, json=body)
    h_n = outputs(answer)["h_n"]
    np.testing.assert_allclose(h_n, expected[2]["h_n"][:, :1], rtol=1e-5, atol=1e-6)
    gone = client.post(INFER, json=body | {"parameters": {"sequence_id": "s"}})
    assert gone.status_code == 400
    assert "s" in gone.json()["error"]


def test_nan_is_a_number_and_null_in_json(client):
    x = X.copy()
    x[0, 0, 0] = np.nan
    data = [None if np.isnan(value) else value for value in x.ravel().tolist()]
    answer = client.post(INFER, json={"inputs": [tensor("input", x, data=data)]})
    output = outputs(answer)["output"]
    assert np.isnan(output[0]).all()
    assert np.isfinite(output[1]).all()
    body, headers = binary({"input": x}, outputs=[{"name": "output"}])
    assert outputs(client.post(INFER, content=body, headers=headers))["output"].shape == (2, 5, 4)


GOOD = tensor("input", X)


def test_what_is_not_there_is_404_and_other_methods_405(client):
    body = {"inputs": [GOOD]}
    for path in ("/v2/models/x/infer", "/v2/models/m/versions/3/infer", "/v2/models/%00/infer"):
        answer = client.post(path, json=body)
        assert answer.status_code == 404
        assert "does not exist" in answer.json()["error"]
    for path in ("/v2/models/x", "/v2/models/m/versions/x/ready", "/v3", "/page/x"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert [*answer.json()] == ["error"]
    assert client.get(INFER).status_code == 405
    unloaded = client.post("/v2/repository/models/m/unload")
    assert unloaded.status_code == 400
    assert "--model-control" in unloaded.json()["error"]


class Held(Engine):
    """An engine whose requests are answered by the test."""

    held: Future[dict[str, Array]]

    def submit(self, *arguments, **options):
        self.held = Future()
        return self.held


@pytest.fixture
def held(paths):
    engine = Held(paths[1], name="m", threads=1)
    engine.warm_up()
    yield engine
    engine.close()


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (OverloadedError("full"), 503, "overloaded"),
        (DeadlineError("late"), 503, "deadline"),
        (SequenceError("unknown"), 400, "sequence"),
        (RuntimeError("secret"), 500, "internal"),
    ],
)
def test_errors_of_the_engine_have_their_status(held, error, status, reason, caplog):
    def submit(*arguments, **options):
        future = Future()
        future.set_exception(error)
        return future

    held.submit = submit
    with Client(create_app([held], Settings())) as client:
        answer = client.post(INFER, json={"inputs": [GOOD]})
        text = client.get("/metrics").text
    assert answer.status_code == status
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert "secret" not in answer.text
    assert caplog.messages.count("internal error") == (reason == "internal")
    failures = "bnlstm_request_failures_total"
    assert f'{failures}{{model="m",reason="{reason}",version="1"}} 1.0' in text


def test_a_client_that_leaves_takes_its_request_along(held):
    app = create_app([held], Settings())
    body = json.dumps({"inputs": [GOOD]}).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": INFER,
        "headers": [],
        "query_string": b"",
        "root_path": "",
    }

    async def leave():
        messages = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]

        async def receive():
            await asyncio.sleep(0.01)
            return messages.pop(0)

        async def send(message):
            del message

        await app(scope, receive, send)
        await asyncio.sleep(0)

    asyncio.run(leave())
    assert held.held.cancelled()
    with Client(app) as client:
        text = client.get("/metrics").text
    assert 'bnlstm_request_failures_total{model="m",reason="cancelled",version="1"} 1.0' in text


def test_a_cold_model_is_alive_and_not_ready(paths):
    engine = Engine(paths[1], name="m", threads=1)
    with Client(create_app([engine], Settings())) as client:
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/models/m/ready").status_code == 503
        answer = client.post(INFER, json={"inputs": [GOOD]})
    assert answer.status_code == 503
    assert "not ready" in answer.json()["error"]
    engine.close()


def test_a_server_that_shuts_down_is_alive_and_not_ready(paths):
    engine = Engine(paths[1], name="m", threads=1)
    engine.warm_up()
    app = create_app([engine], Settings())
    with Client(app) as client:
        assert client.get("/v2/health/ready").status_code == 200
        app.models.draining = True
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/models/m/ready").status_code == 503
        answer = client.post(INFER, json={"inputs": [GOOD]})
    assert answer.status_code == 503
    assert "shutting down" in answer.json()["error"]
    engine.close()
