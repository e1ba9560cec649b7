"""Which requests share a run, in which order, and which are refused."""

import queue
import threading
from dataclasses import replace

import pytest

from bnlstm_deploy.errors import DeadlineError, InputError, OverloadedError, SequenceError
from bnlstm_deploy.serve.batcher import Batcher, Request
from bnlstm_deploy.serve.limits import Limits

LIMITS = Limits(max_batch=4, max_wait=0, max_queue=8)


class Runner:
    """Records what runs, and holds each run up until it is let go."""

    def __init__(self):
        self.runs = []
        self.started = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def __call__(self, requests):
        self.runs.append([request.payload for request in requests])
        self.started.release()
        assert self.go.acquire(timeout=60)
        for request in requests:
            if request.payload == "bad":
                request.future.set_exception(InputError("bad"))
            else:
                request.future.set_result(request.payload)


@pytest.fixture
def runner():
    return Runner()


@pytest.fixture
def batcher(runner):
    """A batcher that is busy with a first request, so that others collect."""
    batcher = Batcher(runner, LIMITS)
    batcher.put(Request("first", 1, 0))
    assert runner.started.acquire(timeout=60)
    yield batcher
    runner.go.release(1000)
    batcher.close()


def finish(batcher, runner):
    runner.go.release(1000)
    assert batcher.drain(60)
    return runner.runs[1:]


def put(batcher, payload, streams=1, key=0, **arguments):
    request = Request(payload, streams, key, **arguments)
    batcher.put(request)
    return request.future


def test_what_collects_runs_together_in_order(batcher, runner):
    futures = [put(batcher, number) for number in range(6)]
    assert finish(batcher, runner) == [[0, 1, 2, 3], [4, 5]]
    assert [future.result(0) for future in futures] == list(range(6))


def test_the_oldest_is_in_every_run_and_others_join_by_key(batcher, runner):
    for number in range(6):
        put(batcher, number, key=number % 2)
    assert finish(batcher, runner) == [[0, 2, 4], [1, 3, 5]]


def test_streams_count_and_large_requests_are_not_passed_forever(batcher, runner):
    for number, streams in enumerate([3, 3, 1, 9, 1, 1]):
        put(batcher, number, streams)
    assert finish(batcher, runner) == [[0, 2], [1, 4], [3], [5]]


def test_requests_without_a_key_run_alone(batcher, runner):
    for number in range(3):
        put(batcher, number, key=None)
    assert finish(batcher, runner) == [[0], [1], [2]]


def test_chunks_of_a_sequence_run_one_after_the_other(batcher, runner):
    put(batcher, "a0", group="a")
    put(batcher, "a1", group="a")
    put(batcher, "b0", group="b", key=1)
    put(batcher, "b1", group="b", key=0)  # not before b0, though it has the key of the first run
    put(batcher, "c0", group="c")
    assert finish(batcher, runner) == [["a0", "c0"], ["a1"], ["b0"], ["b1"]]


def test_a_full_queue_refuses_at_once(batcher, runner):
    futures = [put(batcher, number) for number in range(8)]
    with pytest.raises(OverloadedError, match="8 requests are waiting, which is max_queue"):
        put(batcher, "one more")
    futures[3].cancel()
    put(batcher, "in its place")
    assert finish(batcher, runner) == [[0, 1, 2, 4], [5, 6, 7, "in its place"]]


def test_what_waited_too_long_is_not_run(batcher, runner):
    late = put(batcher, "late", timeout=-1.0)
    put(batcher, "in time")
    assert finish(batcher, runner) == [["in time"]]
    with pytest.raises(DeadlineError, match="over its limit of -1 s"):
        late.result(0)


def test_draining_answers_what_was_accepted_and_refuses_more(batcher, runner):
    accepted = put(batcher, "accepted")
    assert not batcher.drain(0)
    with pytest.raises(OverloadedError, match="shutting down"):
        put(batcher, "refused")
    assert finish(batcher, runner) == [["accepted"]]
    assert accepted.result(0) == "accepted"


def test_closing_refuses_what_waits(runner):
    batcher = Batcher(runner, LIMITS)
    batcher.put(Request("first", 1, 0))
    assert runner.started.acquire(timeout=60)
    left = put(batcher, "left")
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(OverloadedError, match="shutting down"):
        left.result(60)
    runner.go.release(1000)
    closing.join(60)
    assert not closing.is_alive()


def test_a_batch_that_is_not_full_waits_for_others(runner):
    batcher = Batcher(runner, replace(LIMITS, max_wait=3600.0))
    runner.go.release(1000)
    futures = [put(batcher, number) for number in range(4)]
    assert [future.result(60) for future in futures] == [0, 1, 2, 3]
    assert runner.runs == [[0, 1, 2, 3]]
    batcher.close()


def test_what_waits_behind_a_request_that_failed_fails_too(batcher, runner):
    """It was sent as if the one before it had been done."""
    first = put(batcher, "bad", group="a")
    second = put(batcher, 2, group="a")
    other = put(batcher, 3, group="b")
    assert finish(batcher, runner) == [["bad", 3]]
    assert isinstance(first.exception(0), InputError)
    with pytest.raises(SequenceError, match="the request before this one of its sequence failed"):
        second.result(0)
    assert other.result(0) == 3


def test_what_comes_when_a_request_has_failed_is_not_behind_it():
    """Its sender has seen the failure, and sends that again."""

    def run(requests):
        for request in requests:
            if request.payload == "bad":
                request.future.set_exception(InputError("bad"))
                again.put(put(batcher, "again", group="a"))
            else:
                request.future.set_result(request.payload)

    again = queue.SimpleQueue()
    batcher = Batcher(run, LIMITS)
    put(batcher, "bad", group="a")
    assert again.get(timeout=60).result(60) == "again"
    batcher.close()


def test_whoever_sees_that_a_request_failed_may_send_it_again(batcher, runner):
    """What waited behind it is refused by then, not some time later."""
    first = put(batcher, "bad", group="a")
    behind = put(batcher, 2, group="a")
    seen = []
    first.add_done_callback(lambda _: seen.append(behind.done()))
    finish(batcher, runner)
    assert seen == [True]


def test_what_waits_behind_a_request_that_was_given_up_fails_too(batcher, runner):
    """In a queue that is full, too, where it makes room at once."""
    before = put(batcher, 0, group="a")
    given_up = put(batcher, 1, group="a")
    behind = put(batcher, 2, group="a")
    for number in range(5):
        put(batcher, f"b{number}", key=1)
    given_up.cancel()
    with pytest.raises(SequenceError, match="the request before this one of its sequence failed"):
        behind.result(0)
    again = put(batcher, "again", group="a")
    put(batcher, "one more", key=1)
    assert finish(batcher, runner) == [[0], ["b0", "b1", "b2", "b3"], ["b4", "one more"], ["again"]]
    assert (before.result(0), again.result(0)) == (0, "again")


def test_bytes_bound_a_batch_and_what_waits(runner):
    limits = Limits(max_batch=8, max_wait=0, max_run=100, max_pending=50)
    batcher = Batcher(runner, limits)
    try:
        put(batcher, "first", payload_bytes=1000)  # alone it may wait
        assert runner.started.acquire(timeout=60)
        for number in (0, 1):
            put(batcher, number, run_bytes=40, payload_bytes=20)
        with pytest.raises(OverloadedError, match="over max_pending, 50"):
            put(batcher, "one more", payload_bytes=20)
        put(batcher, "light", run_bytes=40, payload_bytes=10)
        assert finish(batcher, runner) == [[0, 1], ["light"]]
    finally:
        runner.go.release(1000)
        batcher.close()
