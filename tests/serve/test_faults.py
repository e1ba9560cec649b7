"""Requests that are wrong in every way we know, and in ways that hypothesis finds."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnlstm_deploy.serve import Engine, Limits
from bnlstm_deploy.serve.settings import Settings
from tests.serve.local import serving
from tests.serve.servers import export_small
from tests.serve.wire import JSON_LENGTH, binary, tensor

INFER = "/v2/models/m/infer"
X = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of a server with the model `m`."""
    limits = Limits(max_time=20, max_batch=8)
    path = export_small(tmp_path_factory.mktemp("faults") / "m.onnx")
    with serving([Engine(path, threads=1, limits=limits)], Settings(limits)) as client:
        yield client


def faulty(**fields):
    return {"inputs": [tensor("input", X) | fields]}


GOOD = tensor("input", X)
BAD_REQUESTS = {
    "no JSON": (b"{", "not JSON"),
    "NaN": (json.dumps(faulty(data=[float("nan")] * 30)).encode(), "null"),
    "not UTF-8": (b'{"id": "\xff"}', "not JSON"),
    "deep": (b"[" * 10000, "object"),
    "deep data": (b'{"inputs": [{"data":' + b"[" * 100_000, "not JSON"),
    "empty": (b"", "not JSON"),
    "array": ([], "object"),
    "no inputs": ({}, "no inputs"),
    "inputs null": ({"inputs": None}, "no inputs"),
    "inputs object": ({"inputs": {}}, "Expected `array | null`"),
    "inputs of numbers": ({"inputs": [1]}, "Expected `object`"),
    "number as id": ({"id": 1, "inputs": [GOOD]}, "id"),
    "list as parameters": ({"parameters": [], "inputs": [GOOD]}, "parameters"),
    "unknown name": (faulty(name="x"), "no input 'x'"),
    "number as name": (faulty(name=3), "name"),
    "missing": ({"inputs": [tensor("initial_h", np.zeros((1, 2, 4), np.float32))]}, "input"),
    "twice": ({"inputs": [GOOD, GOOD]}, "twice"),
    "no shape": ({"inputs": [{k: v for k, v in GOOD.items() if k != "shape"}]}, "`shape`"),
    "no datatype": ({"inputs": [{k: v for k, v in GOOD.items() if k != "datatype"}]}, "`datatype`"),
    "no data": ({"inputs": [{k: v for k, v in GOOD.items() if k != "data"}]}, "needs data"),
    "data null": (faulty(data=None), "pass a list"),
    "data object": (faulty(data={"a": 1}), "pass a list"),
    "data string": (faulty(data="1"), "pass a list"),
    "strings": (faulty(data=["1"] * 30), "got `str`"),
    "booleans": (faulty(data=[True] * 30), "got `bool`"),
    "objects": (faulty(data=[{}] * 30), "got `object`"),
    "ragged": (faulty(data=[[1.0, 2.0], [3.0]]), "lists in lists"),
    "mixed depth": (faulty(data=[[1.0], 2.0]), "lists in lists"),
    "too few": (faulty(data=[1.0]), "shape"),
    "other nesting": (faulty(data=X.transpose(1, 0, 2).tolist()), "shape"),
    "negative": (faulty(shape=[-2, -5, 3]), "from 0 on"),
    "floats as shape": (faulty(shape=[2.0, 5, 3]), "from 0 on"),
    "booleans as shape": (faulty(shape=[True, 5, 3], data=[0.0] * 15), "from 0 on"),
    "huge": (faulty(shape=[2**62, 2**62, 3]), "shape"),
    "huger": (b'{"inputs":[{"name":"input","datatype":"FP32","shape":[1e30,1,3],"data":[1]}]}', ""),
    "nothing": (faulty(shape=[0, 5, 3], data=[]), "input"),
    "flat": (faulty(shape=[30]), "axes"),
    "features": (faulty(shape=[2, 3, 5]), "input"),
    "FP64": (faulty(datatype="FP64"), "FP64"),
    "FP16": (faulty(datatype="FP16"), "FP16"),
    "BF16": (faulty(datatype="BF16"), "BF16"),
    "BYTES": (faulty(datatype="BYTES", data=["a"] * 30), "BYTES"),
    "nonsense type": (faulty(datatype="float"), "is float"),
    "number as type": (faulty(datatype=1), "datatype"),
    "too large a float": (faulty(data=[1e300] * 30), "range"),
    "too large an integer": (
        {"inputs": [GOOD, tensor("lengths", np.array([5, 5]), data=[2**63, 1])]},
        "range",
    ),
    "floats as integers": (
        {"inputs": [GOOD, tensor("lengths", np.array([5, 5]), data=[5.0, 1])]},
        "got `float`",
    ),
    "lengths beyond T": ({"inputs": [GOOD, tensor("lengths", np.array([6, 1]))]}, "lengths"),
    "h without c": (
        {"inputs": [GOOD, tensor("initial_h", np.zeros((1, 2, 4), np.float32))]},
        "initial_c",
    ),
    "too long": (
        {"inputs": [tensor("input", np.zeros((1, 21, 3), np.float32))]},
        "20",
    ),
    "unknown output": ({"inputs": [GOOD], "outputs": [{"name": "y"}]}, "no output 'y'"),
    "output twice": ({"inputs": [GOOD], "outputs": [{"name": "h_n"}] * 2}, "twice"),
    "outputs of strings": ({"inputs": [GOOD], "outputs": ["h_n"]}, "Expected `object`"),
    "list as sequence_id": ({"inputs": [GOOD], "parameters": {"sequence_id": []}}, "sequence_id"),
    "true as sequence_id": ({"inputs": [GOOD], "parameters": {"sequence_id": True}}, "sequence_id"),
    "long sequence_id": (
        {"inputs": [GOOD], "parameters": {"sequence_id": "s" * 300, "sequence_start": True}},
        "300",
    ),
    "number as start": (
        {"inputs": [GOOD], "parameters": {"sequence_id": 1, "sequence_start": 1}},
        "true or false",
    ),
    "start of nothing": ({"inputs": [GOOD], "parameters": {"sequence_start": True}}, "without"),
    "size without bytes": (
        {"inputs": [{**GOOD, "data": [], "parameters": {"binary_data_size": 120}}]},
        "not both",
    ),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_is_told_why(client, case):
    body, message = BAD_REQUESTS[case]
    content = body if isinstance(body, bytes) else json.dumps(body)
    answer = client.post(INFER, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert [*answer.json()] == ["error"]
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("size", "length", "extra", "message"),
    [
        (119, None, b"", "119 bytes"),
        (121, None, b"", "120 bytes are left"),
        (-1, None, b"", "binary_data_size"),
        (None, None, b"", "needs data"),
        (True, None, b"", "binary_data_size"),
        (2**70, None, b"", "binary_data_size"),
        ("120", None, b"", "binary_data_size"),
        (120, None, b"x", "1 bytes follow"),
        (120, "-1", b"", JSON_LENGTH),
        (120, "99999", b"", JSON_LENGTH),
        (120, "x", b"", JSON_LENGTH),
        (120, "²", b"", JSON_LENGTH),
        (120, "3", b"", "not JSON"),
        (120, "9" * 5000, b"", JSON_LENGTH),
    ],
)
def test_sizes_of_binary_data_are_checked(client, size, length, extra, message):
    entry = {"name": "input", "datatype": "FP32", "shape": [2, 5, 3]}
    head = json.dumps({"inputs": [entry | {"parameters": {"binary_data_size": size}}]}).encode()
    headers = {JSON_LENGTH: (length or str(len(head))).encode()}
    answer = client.post(INFER, content=head + X.tobytes() + extra, headers=headers)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["input", "initial_h", "lengths", "FP32", "INT64", "output", "h_n"]),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.text(max_size=4)
            | st.sampled_from(["name", "shape", "datatype", "data", "parameters"]),
            children,
            max_size=5,
        )
    ),
    max_leaves=12,
)


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, child in items:
            yield from places(child, (*path, key))


def replaced(value, path, new):
    """The value with something else at a place; `...` for nothing."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else [*value]
    if new is ... and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


SMALL = np.zeros((1, 1, 3), np.float32)
WHOLE = {
    "id": "i",
    "parameters": {"sequence_id": 5, "sequence_start": True, "sequence_end": True},
    "inputs": [
        tensor("input", SMALL, parameters={}),
        tensor("lengths", np.array([1])),
        tensor("start_step", np.array([0])),
    ],
    "outputs": [{"name": "output", "parameters": {"binary_data": False}}, {"name": "h_n"}],
}


def answered_or_refused(answer):
    assert answer.status_code in (200, 400, 404, 405, 413, 503), answer.text
    if answer.status_code != 200:
        assert [*answer.json()] == ["error"]


@pytest.mark.slow
@settings(max_examples=1500)
@given(data=st.data())
def test_no_json_is_an_error_of_the_server(client, data):
    body = WHOLE
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([*places(body)]))
        body = replaced(body, path, data.draw(JSON | st.just(...) if path else JSON))
        if not isinstance(body, dict | list):
            break
    answered_or_refused(client.post(INFER, content=json.dumps(body)))


@pytest.mark.slow
@settings(max_examples=700)
@given(data=st.data())
def test_no_bytes_are_an_error_of_the_server(client, data):
    body, headers = binary({"input": SMALL}, parameters={"binary_data_output": True})
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(start + 4, len(body))))
    body = body[:start] + data.draw(st.binary(max_size=6)) + body[end:]
    header = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=6)
    length = st.integers(-2, len(body) + 2).map(str) | header
    if data.draw(st.booleans()):
        headers = {JSON_LENGTH: data.draw(length)}
    for name in ("Content-Type", "Content-Encoding", "X-Request-Id"):
        if data.draw(st.integers(0, 9)) == 0:
            headers[name] = data.draw(header | st.sampled_from(["application/json", "gzip"]))
    answered_or_refused(client.post(INFER, content=body, headers=headers))


def test_after_all_that_answers_are_right_and_nothing_was_internal(client):
    answer = client.post(INFER, json={"inputs": [GOOD]})
    assert answer.status_code == 200
    assert np.isfinite(answer.json()["outputs"][0]["data"]).all()
    assert 'reason="internal"' not in client.get("/metrics").text
