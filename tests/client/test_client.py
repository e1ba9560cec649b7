"""Client against a server: what a Session gives, and errors that say what is wrong."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bnlstm_deploy.client import Client
from bnlstm_deploy.errors import InputError, SequenceError, ServingError
from bnlstm_deploy.state import State
from tests.serve.servers import running

TOLERANCE = 1e-6  # a batch that is shared with others rounds otherwise


@pytest.fixture(scope="module")
def client(served):
    with Client(served.url, "digits") as client:
        yield client


@pytest.fixture(scope="module")
def tagger(served):
    with Client(served.url, "tagger") as client:
        yield client


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)


def same_state(actual, expected):
    close(actual.h, expected.h)
    close(actual.c, expected.c)
    np.testing.assert_array_equal(actual.step, expected.step)


def test_a_run_is_what_a_session_gives(served, client, x):
    for arguments in ({}, {"lengths": np.array([0, 9, 3, 8])}):
        output, state = client.run(x, **arguments)
        expected, expected_state = served.digits(x, **arguments)
        close(output, expected)
        same_state(state, expected_state)
    again, after = client.run(x[:, :2], state=state)
    expected, expected_after = served.digits(x[:, :2], state=expected_state)
    close(again, expected)
    same_state(after, expected_after)
    output += 1  # results are the caller's own


def test_several_bnlstm_and_outputs(served, tagger):
    tokens = np.arange(21).reshape(7, 3) % 9
    lengths = {"low": np.array([7, 2, 5]), "high": np.array([7, 2, 5])}
    outputs, states = tagger.run(tokens, lengths=lengths)
    expected, expected_states = served.tagger(tokens, lengths=lengths)
    assert len(outputs) == 2
    assert states.keys() == {"low", "high"}
    for output, other in zip(outputs, expected, strict=True):
        close(output, other)
    for name, state in states.items():
        same_state(state, expected_states[name])
    outputs, _ = tagger.run(tokens, state=states)
    for output, other in zip(outputs, served.tagger(tokens, state=states)[0], strict=True):
        close(output, other)


def test_a_stream_in_chunks_is_the_whole_sequence(served, client, x):
    stream = client.stream()
    assert stream.state is None
    pieces = [stream(x[:, :1]), stream(x[:, 1:6])]
    elsewhere = client.stream(stream.state)
    pieces.append(elsewhere(x[:, 6:]))
    expected, state = served.digits(x)
    close(np.concatenate(pieces, axis=1), expected)
    same_state(elsewhere.state, state)


def test_a_sequence_in_chunks_is_the_whole_sequence(served, client, x):
    expected, _ = served.digits(x)
    with client.sequence() as one, client.sequence() as other:
        assert one.id != other.id
        assert 0 < one.id < 2**63
        pieces = []
        for start in range(0, 9, 3):
            pieces.append(one(x[:, start : start + 3]))
            other(-x[:, start : start + 3])
    close(np.concatenate(pieces, axis=1), expected)


def test_lengths_of_chunks(served, client, x):
    lengths = np.array([1, 4, 0, 4])
    first, state = served.digits(x[:, :4], lengths=lengths)
    rest, _ = served.digits(x[:, 4:], state=state)
    stream = client.stream()
    with client.sequence() as sequence:
        for run in (stream, sequence):
            close(run(x[:, :4], lengths=lengths), first)
            close(run(x[:, 4:]), rest)


def test_streams_of_a_model_with_several_bnlstm(served, tagger):
    tokens = np.arange(16).reshape(8, 2) % 9
    expected, _ = served.tagger(tokens)
    stream = tagger.stream()
    with tagger.sequence() as sequence:
        for run in (stream, sequence):
            pieces = [run(tokens[:3]), run(tokens[3:])]
            for joined, whole in zip(zip(*pieces, strict=True), expected, strict=True):
                close(np.concatenate(joined), whole)


def held(client):
    (live,) = (m for m in client.get("page/live")["models"] if m["name"] == client.model)
    return live["sequences"]


def test_the_server_drops_the_state_at_the_end(client, x):
    before = held(client)
    with client.sequence() as sequence:
        sequence(x)
        assert held(client) == before + 1
    assert held(client) == before
    ended = client.sequence()
    ended(x)
    ended(x, last=True)
    assert held(client) == before
    with pytest.raises(SequenceError, match="is over: its last chunk was sent; start anew"):
        ended(x)
    ended.close()
    client.sequence().close()  # one without a chunk is nothing to the server


def test_a_sequence_that_the_server_has_dropped_is_over(client, x):
    sequence, other = client.sequence(), client.sequence()
    sequence(x)
    other.id = sequence.id
    other(x, last=True)
    for _ in range(2):
        with pytest.raises(SequenceError, match=f"{sequence.id}(?s:.)*[Ss]tart anew"):
            sequence(x)


def test_a_chunk_that_does_not_fit_leaves_a_sequence_as_it_was(served, client, x):
    expected, _ = served.digits(x)
    with client.sequence() as sequence:
        first = sequence(x[:, :4])
        with pytest.raises(InputError, match="FP64"):
            sequence(x[:, 4:].astype(np.float64))
        close(np.concatenate([first, sequence(x[:, 4:])], axis=1), expected)


def test_threads_may_share_a_client(served, client, x):
    rows = np.random.default_rng(1).standard_normal((24, 1, 9, 2)).astype(np.float32)

    def both(row):
        stream = client.stream()
        stream(row[:, :4])
        return client.run(row)[0], stream(row[:, 4:])

    with ThreadPoolExecutor(8) as pool:
        for row, (whole, rest) in zip(rows, pool.map(both, rows), strict=True):
            expected, _ = served.digits(row)
            close(whole, expected)
            close(rest, expected[:, 4:])


def test_a_bidirectional_model_runs_whole_sequences_only(served, x):
    with Client(served.url, "both") as client:
        output, state = client.run(x)
        close(output, served.both(x)[0])
        assert state.step is None
        with pytest.raises(InputError, match="cannot be continued"):
            client.run(x, state=state)
        with pytest.raises(InputError, match="no input 'start_step'"):
            client.run(x, state=State(state.h, state.c, np.zeros(9, np.int64)))
        with pytest.raises(InputError, match="cannot continue a stream"):
            client.sequence()(x)


def test_wrong_calls_are_input_errors(client, x):
    _, state = client.run(x)
    for arguments, keywords, message in (
        ((), {}, r"0 inputs given; this model takes \['input'\]"),
        ((x, x, x, x, x, x), {}, "6 inputs given"),
        ((x, x), {}, "2 inputs given"),
        ((x.tolist(),), {}, "'input' is a list; pass a numpy array"),
        ((x.astype(np.float64),), {}, "FP64"),
        ((x.astype(">f4"),), {}, "which the protocol does not have"),
        ((x[..., :1],), {}, "input"),
        ((x[:2],), {"state": state}, "initial_h"),
        ((x,), {"lengths": np.array([10, 0, 0, 0])}, "lengths"),
        ((x,), {"lengths": {"rnn": np.array([1])}}, r"lengths is given for \['rnn'\]"),
    ):
        with pytest.raises(InputError, match=message):
            client.run(*arguments, **keywords)


def test_what_is_not_there(served, x):
    with Client(served.url, "letters") as client, pytest.raises(ServingError, match="letters"):
        client.run(x)
    versioned = Client(served.url, "digits", version="7")
    with versioned as client, pytest.raises(ServingError, match="7"):
        client.run(x)
    with Client(f"{served.url}/below", "digits") as client, pytest.raises(ServingError):
        client.run(x)
    with Client(served.url, "digits", version="1") as client:
        client.run(x)
    with pytest.raises(ServingError, match=r"127.0.0.1:9 cannot be reached.*tried 2 times"):
        Client("http://127.0.0.1:9", "digits", retries=1).run(x)
    for url in ("127.0.0.1:8080", "ftp://127.0.0.1", "http://", "http://a:b", "http://a?b"):
        with pytest.raises(InputError, match="address"):
            Client(url, "digits")


def test_a_server_with_a_token(served, x):
    with running(f"m={served.folder / 'digits.onnx'}", token="secret") as server:
        url = f"http://{server.http}"
        with Client(url, "m", token="secret") as client:
            close(client.run(x)[0], served.digits(x)[0])
        for token, why in ((None, "no token"), ("other", "another token")):
            client = Client(url, "m", token=token)
            with client, pytest.raises(ServingError, match=why):
                client.run(x)


def test_needs_no_runtime():
    code = (
        "import sys, bnlstm_deploy.client, bnlstm_deploy; bnlstm_deploy.State; "
        "heavy = {'onnxruntime', 'onnx', 'torch', 'kserve'} & {*sys.modules}; "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
