"""narrow(): one stream and the shortest sequence that still fail."""

from types import SimpleNamespace

import numpy as np
import pytest

from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.signature import Signature, Value
from bnlstm_deploy.verification.diagnosis.narrowing import (
    Minimal,
    excess,
    narrow,
    prefix,
    time_of,
    worst_streams,
)

FLOAT, INT = np.dtype(np.float32), np.dtype(np.int64)
TOLERANCE = {"y": 1.0, "h_n": 1.0}


def graph(length=None):
    """Of one layer, time-major: x to y; unrolled, if there is a length."""
    time = "time" if length is None else length
    x, y = Value("x", FLOAT, (time, "batch", 2)), Value("y", FLOAT, (time, "batch", 3))
    state = [Value(n, FLOAT, (1, "batch", 3)) for n in ("initial_h", "initial_c")]
    counts = [Value(n, INT, ("batch",)) for n in ("lengths", "start_step")]
    signature = Signature(
        (x,),
        (*state, *counts),
        (y,),
        (Value("h_n", FLOAT, (1, "batch", 3)),),
        ("",),
        length=length,
        fixed_time_axes={} if length is None else {"x": 0, "y": 0},
    )
    return SimpleNamespace(
        signature=signature,
        inputs=signature.inputs,
        state_inputs=signature.state_inputs,
        metadata=SimpleNamespace(length=length),
    )


def feeds(time=20, streams=4, **more):
    """Inputs that name their stream and timestep."""
    numbers = np.arange(time)[:, None] + 1000 * np.arange(streams)
    return {"x": np.repeat(numbers[:, :, None], 2, 2).astype(np.float32)} | more


def truth(given):
    time, streams, _ = given["x"].shape
    return {"y": np.zeros((time, streams, 3)), "h_n": np.zeros((1, streams, 3))}


def failing(stream, step, by=2.0):
    """Return a run that is wrong from a timestep of a stream on."""

    def run(given):
        wrong = given["x"][:, :, :1] >= 1000 * stream + step
        wrong &= given["x"][:, :, :1] < 1000 * (stream + 1)
        results = truth(given)
        results["y"] = results["y"] + by * wrong
        return results

    return run


@pytest.mark.parametrize("step", [0, 1, 2, 7, 8, 18, 19])
def test_it_is_one_stream_and_no_longer_than_it_must_be(step):
    given = feeds(initial_h=np.arange(12.0).reshape(1, 4, 3), lengths=np.array([20, 20, 19, 20]))
    found = narrow(graph(), given, failing(2, step), truth, TOLERANCE)
    assert found is not None
    assert (found.stream, found.time) == (2, step + 1)
    np.testing.assert_array_equal(found.feeds["x"], given["x"][: step + 1, 2:3])
    np.testing.assert_array_equal(found.feeds["initial_h"], given["initial_h"][:, 2:3])
    assert found.feeds["lengths"].tolist() == [min(19, step + 1)]
    assert found.actual["y"].max() == 2
    assert found.expected["y"].shape == found.actual["y"].shape


def test_what_does_not_fail_is_none():
    assert narrow(graph(), feeds(), failing(2, 3, by=1.0), truth, TOLERANCE) is None


def test_streams_that_fail_only_together_stay_together():
    def run(given):
        alone = given["x"].shape[1] == 1
        return failing(0, 5)(given) if not alone else truth(given)

    found = narrow(graph(), feeds(), run, truth, TOLERANCE)
    assert found is not None
    assert (found.stream, found.time) == (None, 6)
    assert found.feeds["x"].shape == (6, 4, 2)


def test_a_graph_that_takes_no_other_sizes_is_left_whole():
    given = feeds()

    def run(part):
        if part["x"].shape != given["x"].shape:
            raise RuntimeSessionError("no other sizes")
        return failing(1, 5)(part)

    found = narrow(graph(), given, run, truth, TOLERANCE)
    assert found is not None
    assert (found.stream, found.time, found.feeds) == (None, 20, given)


def test_a_fixed_time_is_cut_by_lengths():
    def run(given):
        valid = np.arange(20)[:, None, None] < given.get("lengths", np.array([20] * 4))[:, None]
        results = failing(3, 7)(given)
        return results | {"y": np.where(valid, results["y"], 0)}

    found = narrow(graph(20), feeds(), run, truth, TOLERANCE)
    assert found is not None
    assert (found.stream, found.time) == (3, 8)
    assert found.feeds["x"].shape == (20, 1, 2)
    assert found.feeds["lengths"].tolist() == [8]


def test_a_prefix_cuts_lengths_of_the_model_s_own():
    given = feeds(3, 2, lengths=np.array([1, 3]), own=np.array([3, 1]))
    cut = prefix(graph(), given, 2, ["own"])
    assert cut["x"].shape == (2, 2, 2)
    assert (cut["lengths"].tolist(), cut["own"].tolist()) == ([1, 2], [2, 1])
    assert "lengths" not in prefix(graph(), feeds(3, 2), 2)
    assert prefix(graph(3), feeds(3, 2), 2)["lengths"].tolist() == [2, 2]


@pytest.mark.parametrize(("length", "time"), [(None, 20), (7, 7)])
def test_time_is_that_of_the_graph_or_of_its_inputs(length, time):
    assert time_of(graph(length), feeds()) == time


def measured(**errors):
    expected = truth(feeds())
    actual = {name: value.copy() for name, value in expected.items()}
    for name, of_streams in errors.items():
        actual[name][0, :, 0] = of_streams
    return Minimal(feeds(), expected, actual, None, 20)


def test_the_worst_streams_come_first():
    assert worst_streams(graph(), measured(y=[0, 3, 1, 2]), TOLERANCE) == [1, 3, 2]
    assert worst_streams(graph(), measured(y=[0, 3, 1, 2], h_n=[9, 0, 0, 0]), TOLERANCE)[0] == 0
    assert worst_streams(graph(), measured(y=[0, 3, np.nan, 2]), TOLERANCE) == [2, 1, 3]
    # what is not judged does not matter
    assert worst_streams(graph(), measured(y=[0, 3, 1, 2]), {"h_n": 1.0}) == [0, 1, 2]


def test_an_output_of_another_shape_tells_no_stream():
    whole = measured(h_n=[0, 0, 1, 0])
    for shape in ((20, 1, 3), (20, 4, 1), (19, 4, 3)):
        whole.actual["y"] = np.full(shape, 5.0)
        assert worst_streams(graph(), whole, TOLERANCE)[0] == 2
    # in both, of another number of streams: it is not theirs
    whole.expected["y"], whole.actual["y"] = np.zeros((20, 5, 3)), np.full((20, 5, 3), 5.0)
    assert worst_streams(graph(), whole, TOLERANCE)[0] == 2


def test_excess_is_a_multiple_of_what_is_allowed():
    expected = {"a": np.zeros(2), "b": np.zeros(2)}
    actual = {"a": np.array([0.5, -3]), "b": np.array([1.0, 0])}
    assert excess(actual, expected, {"a": 2.0, "b": 1.0}) == 1.5
    assert excess(actual, expected, {"b": 4.0, "c": 0.0}) == 0.25
    assert excess(actual, expected, {}) == 0
    assert excess(actual, expected, {"a": 0.0}) > 1e300
    assert excess({"a": np.array([np.nan, 0]), "b": np.zeros(2)}, expected, {"a": 1, "b": 1}) == (
        np.inf
    )
    assert excess({"a": np.zeros(3)}, expected, {"a": 1}) == np.inf
