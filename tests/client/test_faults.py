"""Streams and sequences over connections that break and servers that refuse."""

import contextlib

import numpy as np
import pytest

from bnlstm_deploy.client import Client
from bnlstm_deploy.errors import (
    DeadlineError,
    InputError,
    OverloadedError,
    SequenceError,
    ServingError,
)
from tests.client.proxy import (
    BAD_GATEWAY,
    BROKEN,
    CLOSE_AFTER,
    CUT_ANSWER,
    HANG,
    LOSE_ANSWER,
    LOSE_REQUEST,
    NO_REPLICA,
    PASS,
    REFUSE,
    proxy,
)

LOST = (LOSE_REQUEST, LOSE_ANSWER, CUT_ANSWER, NO_REPLICA, BAD_GATEWAY, BROKEN)
"""After these a client cannot know whether the server has run the request."""


@contextlib.contextmanager
def connected(served, *plans, **options):
    """Give a proxy before the server, and a client of it that has read the model's metadata."""
    with proxy(served.server.http) as way, Client(way.url, "digits", **options) as client:
        client.metadata  # noqa: B018
        way.plans.extend(plans)
        yield way, client


def in_chunks(run, x, way=None):
    pieces = []
    for i in range(0, x.shape[1], 3):
        pieces.append(run(x[:, i : i + 3]))
        # What is sent while the connection is being closed is lost: this is about what is later.
        assert way is None or way.closed.wait(30)
    return np.concatenate(pieces, axis=1)


def exact(served, x):
    """What whole sequences give; in chunks of a server that runs nothing else, to the bit."""
    return served.digits(x)[0]


@pytest.mark.parametrize("plan", [*LOST, REFUSE, CLOSE_AFTER], ids=str)
def test_a_stream_survives(served, x, plan):
    with connected(served, plan, PASS, plan, plan) as (way, client):
        np.testing.assert_allclose(in_chunks(client.stream(), x, way), exact(served, x), atol=1e-6)
        failed = 0 if plan == CLOSE_AFTER else 3
        assert len(way.came) == 3 + failed
        assert way.passed == 3 + failed * (plan in {LOSE_ANSWER, CUT_ANSWER})


@pytest.mark.parametrize("plan", [REFUSE, CLOSE_AFTER], ids=str)
def test_a_sequence_survives_what_the_server_has_not_run(served, x, plan):
    with connected(served, plan, PASS, plan) as (way, client):
        with client.sequence() as sequence:
            np.testing.assert_allclose(in_chunks(sequence, x, way), exact(served, x), atol=1e-6)
        assert way.passed == 3 + 1  # and the end
        assert {headers["x-session-id"] for headers in way.came} == {str(sequence.id)}


@pytest.mark.parametrize("plan", LOST, ids=str)
def test_a_chunk_of_a_sequence_is_never_run_twice(served, x, plan):
    with connected(served, PASS, plan) as (way, client), client.sequence() as sequence:
        sequence(x[:, :3])
        with pytest.raises(SequenceError, match=r"a chunk ahead.*Start anew, or use a stream"):
            sequence(x[:, 3:6])
        assert len(way.came) == 2
        with pytest.raises(SequenceError, match=f"sequence {sequence.id} is over"):
            sequence(x[:, 3:6])
        assert len(way.came) == 2
        anew = client.sequence()
        np.testing.assert_allclose(in_chunks(anew, x), exact(served, x), atol=1e-6)


def test_a_server_that_is_away_for_a_while(served, x):
    expected = exact(served, x)
    client = None
    with proxy(served.server.http) as way:
        client = Client(way.url, "digits", retries=0)
        stream, sequence = client.stream(), client.sequence()
        pieces = [(stream(x[:, :4]), sequence(x[:, :4]))]
    for run in (stream, sequence):
        with pytest.raises(ServingError, match=r"cannot be reached: .*refused") as caught:
            run(x[:, 4:])
        assert not isinstance(caught.value, SequenceError)
    with proxy(served.server.http, port=way.port), client, sequence:
        pieces.append((stream(x[:, 4:]), sequence(x[:, 4:])))
        for joined in zip(*pieces, strict=True):
            np.testing.assert_allclose(np.concatenate(joined, axis=1), expected, atol=1e-6)


def test_a_refused_chunk_may_be_sent_later(served, x):
    with connected(served, PASS, REFUSE, retries=0) as (_, client), client.sequence() as sequence:
        first = sequence(x[:, :4])
        with pytest.raises(OverloadedError, match="1024 requests are waiting"):
            sequence(x[:, 4:])
        joined = np.concatenate([first, sequence(x[:, 4:])], axis=1)
        np.testing.assert_allclose(joined, exact(served, x), atol=1e-6)


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_what_is_wrong_with_a_request_is_not_tried_again(served, x, status):
    with connected(served, (status, b'{"error": "no"}')) as (way, client):
        kind = InputError if status in (400, 413) else ServingError
        with pytest.raises(kind, match="no"):
            client.run(x)
        assert len(way.came) == 1


def test_the_last_failure_is_told(served, x):
    for plan, kind, message in (
        (REFUSE, OverloadedError, "1024 requests are waiting; tried 3 times"),
        (NO_REPLICA, ServingError, "503 no healthy upstream; tried 3 times"),
        (LOSE_REQUEST, ServingError, "broke.*; tried 3 times"),
        ((404, b"nothing"), ServingError, "404 nothing; look at the address"),
    ):
        with connected(served, *[plan] * 4, retries=2) as (way, client):
            with pytest.raises(kind, match=message):
                client.run(x)
            assert len(way.came) == (1 if message.startswith("404") else 3)


def test_a_deadline_ends_all_attempts(served, x):
    with connected(served, *[REFUSE] * 1000, timeout=0.5) as (way, client):
        with contextlib.suppress(OverloadedError):
            client.run(x)
            pytest.fail("a server that refuses everything gave a result")
        assert way.plans
    for late in (Client.stream, Client.sequence):
        with connected(served, HANG) as (way, client):
            client.timeout = 0.3
            kind = SequenceError if late == Client.sequence else DeadlineError
            with pytest.raises(kind, match=r"did not answer within 0\.3 s"):
                late(client)(x)
            way.released.set()


def test_answers_that_are_not_the_protocols(served, x):
    cut = b'{"outputs": [{"name": "output", "shape": [1], "datatype": "FP32", "data": [1.0]}]}'
    for plan, message in (((200, b"<html>"), "not the protocol's"), ((200, cut), "lacks.*h_n")):
        with connected(served, plan) as (_, client), pytest.raises(ServingError, match=message):
            client.run(x)


def test_the_answer_to_a_body_that_is_not_read(served, x):
    """A server may refuse a large body by its header and close."""
    with connected(served) as (way, client):
        way.refuses_above = 10_000
        with pytest.raises(InputError, match="too large"):
            client.run(np.zeros((1000, 4000, 2), np.float32))
        client.run(x)
