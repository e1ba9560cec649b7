"""What an engine answers, against a session that is asked for each request alone."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnlstm_deploy.errors import (
    InputError,
    OverloadedError,
    RuntimeSessionError,
    SequenceError,
)
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.serve import Chunk, Engine, Limits

BATCH_FIRST = {"dynamic": True, "classifier": False, "bidirectional": False, "unrolled": False}
WIDE = Limits(max_batch=64, max_wait=0)

MATES = 4e-7
"""How far outputs within (-1, 1) may be moved by what runs with them: a few ULP of float32."""


@pytest.fixture(scope="module", params=BATCH_FIRST)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def engine(kind, files):
    engine = Engine(files / f"{kind}.onnx", limits=WIDE)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def session(kind, files):
    return Session(files / f"{kind}.onnx")


@pytest.fixture
def stream(files):
    engine = Engine(files / "dynamic.onnx", limits=WIDE)
    yield engine
    engine.close()


def together(engine, many):
    """Submit requests that share runs, however slow the machine: none is taken before the last."""
    with engine._batcher._changed:
        return [engine.submit(feeds) for feeds in many]


def inputs(kind, streams, time, seed=0):
    shape = (streams, time, 3) if BATCH_FIRST[kind] else (time, streams, 3)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def alone(kind, session, feeds):
    """The truth: the request by itself, of an unrolled graph padded by hand."""
    length = session.metadata.length
    time = feeds["input"].shape[0]
    if kind == "unrolled" and time < length:
        padded = np.zeros((length, *feeds["input"].shape[1:]), np.float32)
        padded[:time] = feeds["input"]
        lengths = feeds.get("lengths", np.full(padded.shape[1], time))
        results = session.run(feeds | {"input": padded, "lengths": lengths})
        return results | {"output": results["output"][:time]}
    return session.run(feeds)


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        scale = max(1.0, float(np.abs(array).max()))
        np.testing.assert_allclose(found[name], array, rtol=0, atol=MATES * scale, err_msg=name)


@st.composite
def requests(draw, kind, session):
    """One request of any size, with any of the optional inputs."""
    streams, time = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    feeds = {"input": inputs(kind, streams, time, draw(st.integers(0, 99)))}
    rows = session.state_inputs[0].shape[0]
    random = np.random.default_rng(draw(st.integers(0, 99)))
    if draw(st.booleans()):
        feeds["lengths"] = random.integers(0, time + 1, streams)
    if draw(st.booleans()):
        for name in ("initial_h", "initial_c"):
            feeds[name] = random.uniform(-1, 1, (rows, streams, 8)).astype(np.float32)
    names = {value.name for value in session.state_inputs}
    if "start_step" in names and draw(st.booleans()):
        feeds["start_step"] = random.integers(0, 9, streams)
    return feeds


@given(data=st.data())
@settings(max_examples=15)
def test_requests_of_all_kinds_share_runs(data, kind, engine, session):
    many = data.draw(st.lists(requests(kind, session), min_size=2, max_size=6))
    futures = together(engine, many)
    for feeds, future in zip(many, futures, strict=True):
        assert_close(future.result(60), alone(kind, session, feeds))


def test_they_do_share_them(kind, engine):
    before = engine.stats()
    futures = together(engine, [{"input": inputs(kind, 2, 5 + n % 3)} for n in range(8)])
    for future in futures:
        future.result(60)
    after = engine.stats()
    assert after.requests - before.requests == 8
    assert after.inferences - before.inferences == 16
    assert after.executions - before.executions == 1
    assert after.recent[-1].streams == 16
    for field, count in (("compute_seconds", 1), ("queue_seconds", 8)):
        new, old = getattr(after, field), getattr(before, field)
        assert sum(new.counts) - sum(old.counts) == count
        assert new.total > old.total


def test_a_trained_initial_state_is_filled_in(stream):
    """One request brings a state and the other leaves the model's own."""
    x = inputs("dynamic", 1, 4)
    state = np.full((2, 1, 8), 0.5, np.float32)
    given_ = {"input": x, "initial_h": state, "initial_c": state}
    own, other = together(stream, [{"input": x}, given_])
    session = Session(stream.path)
    assert_close(own.result(60), session.run({"input": x}))
    expected = session.run(given_)
    assert_close(other.result(60), expected)
    assert np.abs(expected["output"] - own.result(0)["output"]).max() > 1e-3


def test_nan_stays_with_its_request(engine, kind, session):
    bad, good = inputs(kind, 2, 5), inputs(kind, 2, 7, seed=1)
    bad[:] = np.nan
    futures = together(engine, [{"input": x} for x in (bad, good)])
    assert np.isnan(futures[0].result(60)["output"]).all()
    assert_close(futures[1].result(60), alone(kind, session, {"input": good}))


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "lack"),
        ({"input": np.zeros((1, 4, 3))}, "float64"),
        ({"input": np.zeros((1, 4, 2), np.float32)}, "shape"),
        ({"input": [[1.0]]}, "pass a numpy array"),
        ({"input": np.zeros((1, 9, 3), np.float32)}, "max_time of 8"),
    ],
)
def test_bad_requests_are_refused_at_once(feeds, message, files):
    engine = Engine(files / "dynamic.onnx", limits=Limits(max_time=8))
    with pytest.raises(InputError, match=message):
        engine.submit(feeds)
    with pytest.raises(InputError, match="no output 'y'; this model has"):
        engine.submit({"input": np.zeros((1, 4, 3), np.float32)}, outputs=["y"])
    assert engine.stats().failures == {"InputError": 2}
    engine.close()


def test_only_what_is_asked_for(stream):
    x = inputs("dynamic", 1, 4)
    assert stream.submit({"input": x}, outputs=["next_step"]).result(60).keys() == {"next_step"}


def test_a_failure_is_its_own_requests_alone(stream, monkeypatch):
    """ONNX Runtime fails on a run with a certain request in it, and the others are answered."""
    run = stream._run_graph

    def failing(feeds, **_):
        if (feeds["input"] == 7).any():
            raise RuntimeSessionError("ONNX Runtime failed: 7")
        return run(feeds)

    monkeypatch.setattr(stream, "_run_graph", failing)
    good, bad = inputs("dynamic", 1, 4), np.full((1, 4, 3), 7, np.float32)
    futures = together(stream, [{"input": x} for x in (good, bad, good)])
    assert_close(futures[0].result(60), run({"input": good}))
    with pytest.raises(RuntimeSessionError):
        futures[1].result(60)
    assert_close(futures[2].result(60), run({"input": good}))
    assert stream.stats().failures == {"RuntimeSessionError": 1}


def test_sequences_of_many_threads_are_their_own(files):
    """Interleaved chunks of sequences, some of them sent ahead, against one run of each whole."""
    engine = Engine(files / "dynamic.onnx", limits=Limits(max_batch=5, max_wait=0.001))
    whole = [inputs("dynamic", 1 + n % 2, 9 + n, seed=n) for n in range(12)]

    def send(number):
        x = whole[number]
        cuts = [0, *sorted(np.random.default_rng(number).integers(1, x.shape[1], 3)), x.shape[1]]
        chunks = [x[:, a:b] for a, b in pairwise(cuts) if b > a]
        futures = []
        for index, chunk in enumerate(chunks):
            turn = Chunk(number, index == 0, index == len(chunks) - 1)
            futures.append(engine.submit({"input": chunk}, sequence=turn))
            if number % 3:
                futures[-1].result(60)
        return [future.result(60) for future in futures]

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(send, range(len(whole))))
    session = Session(engine.path)
    for x, chunks in zip(whole, answers, strict=True):
        expected = session.run({"input": x})
        output = np.concatenate([chunk["output"] for chunk in chunks], axis=1)
        np.testing.assert_allclose(output, expected["output"], rtol=0, atol=2e-6)
        assert (chunks[-1]["next_step"] == x.shape[1]).all()
    assert engine.stats().sequences == 0
    engine.close()


def test_a_failed_chunk_leaves_the_state_as_it_was(stream, monkeypatch):
    x = inputs("dynamic", 1, 6)
    stream.submit({"input": x[:, :2]}, sequence=Chunk(1, True, False)).result(60)
    run = stream._run_graph
    with monkeypatch.context() as patch:
        patch.setattr(stream, "_run_graph", lambda feeds, **_: run({}))
        with pytest.raises(InputError):
            stream.submit({"input": x[:, 2:]}, sequence=Chunk(1, False, False)).result(60)
    rest = stream.submit({"input": x[:, 2:]}, sequence=Chunk(1, False, True)).result(60)
    np.testing.assert_allclose(rest["output"], run({"input": x})["output"][:, 2:], atol=2e-6)


def test_an_unknown_sequence_is_an_error(stream):
    future = stream.submit({"input": inputs("dynamic", 1, 2)}, sequence=Chunk(1, False, False))
    with pytest.raises(SequenceError, match="no sequence 1"):
        future.result(60)


def test_nothing_is_kept_after_hundreds_of_chunks(files):
    limits = Limits(max_wait=0, max_sequences=7)
    engine = Engine(files / "dynamic.onnx", limits=limits)
    x = inputs("dynamic", 1, 1)
    for chunk in range(100):
        futures = [
            engine.submit({"input": x}, sequence=Chunk(n, chunk == 0, chunk == 99))
            for n in range(7)
        ]
        for future in futures:
            future.result(60)
    stats = engine.stats()
    assert (stats.requests, stats.inferences, stats.sequences, stats.queued) == (700, 700, 0, 0)
    assert len(stats.recent) <= 512
    engine.close()


def test_life(files):
    engine = Engine(files / "classifier.onnx", name="c", version="3")
    assert not engine.ready
    engine.warm_up()
    assert engine.ready
    described = {"name": "input", "datatype": "FP32", "shape": [-1, -1, 3]}
    assert engine.inputs[0].described() == described
    assert engine.optional == {"initial_h", "initial_c", "start_step", "lengths"}
    assert [tensor.name for tensor in engine.outputs] == ["output", "h_n", "c_n", "next_step"]
    assert engine.drain(60)
    with pytest.raises(OverloadedError, match="shutting down"):
        engine.submit({"input": np.zeros((4, 1, 3), np.float32)})
    engine.close()
