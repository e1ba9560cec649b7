"""Cases with their inputs: whole and in chunks, alone and side by side."""

from types import SimpleNamespace

import numpy as np
import pytest

from bnlstm_deploy.signature import Signature, Value
from bnlstm_deploy.verification.measuring.cases import Case
from bnlstm_deploy.verification.measuring.trial import Together, Trial, alike

FLOAT, INT = np.dtype(np.float32), np.dtype(np.int64)
STATE = (1, "batch", 1)


def graph(length=None):
    """Of x (T, N, 1), of what has no time, z, and of lengths of the model's own."""
    time = "time" if length is None else length
    signature = Signature(
        (
            Value("x", FLOAT, (time, "batch", 1)),
            Value("z", FLOAT, ("batch", 1)),
            Value("own", INT, ("batch",)),
        ),
        (
            *(Value(n, FLOAT, STATE) for n in ("initial_h", "initial_c")),
            Value("start_step", INT, ("batch",)),
        ),
        (Value("y", FLOAT, (time, "batch", 1)), Value("last", FLOAT, ("batch", 1))),
        (
            Value("h_n", FLOAT, STATE),
            Value("c_n", FLOAT, STATE),
            Value("next_step", INT, ("batch",)),
        ),
        ("",),
        length=length,
        fixed_time_axes={} if length is None else {"x": 0, "y": 0},
    )
    return SimpleNamespace(
        signature=signature, inputs=signature.inputs, outputs=signature.outputs, length=length
    )


def model(given):
    """Sum up x over time from h on; count steps."""
    time, streams, _ = given["x"].shape
    h = given.get("initial_h", np.zeros((1, streams, 1)))
    step = given.get("start_step", np.zeros(streams, np.int64))
    y = h + np.cumsum(given["x"], 0)
    last = y[-1] + given["z"] + given["own"][:, None] * 1e6
    return {"y": y, "last": last, "h_n": y[-1:], "c_n": -y[-1:], "next_step": step + time}


def feeds(time=6, streams=3, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "x": generator.integers(0, 9, (time, streams, 1)).astype(np.float32),
        "z": generator.integers(0, 9, (streams, 1)).astype(np.float32),
        "own": np.array([6, 3, 0] * 9)[:streams],
    }


def test_chunks_carry_the_state_and_cut_what_has_time():
    given = feeds()
    trial = Trial(graph(), Case(6, 3, chunks=(1, 3, 2)), [given], ["own"])
    seen = []

    def run(part):
        seen.append(part)
        return model(part)

    joined, whole = trial.run_chunks(run), model(given)
    for name in ("y", "h_n", "c_n", "next_step"):
        np.testing.assert_array_equal(joined[name], whole[name])
    assert [part["x"][:, 0, 0].tolist() for part in seen] == [
        given["x"][a:b, 0, 0].tolist() for a, b in ((0, 1), (1, 4), (4, 6))
    ]
    # lengths of the model's own are those of the chunk
    assert [part["own"].tolist() for part in seen] == [[1, 1, 0], [3, 2, 0], [2, 0, 0]]
    assert all(np.array_equal(part["z"], given["z"]) for part in seen)
    assert ["initial_h" in part for part in seen] == [False, True, True]
    assert [part.get("start_step", np.array([0]))[0] for part in seen] == [0, 1, 4]
    # an output without time is that of the last chunk
    np.testing.assert_array_equal(joined["last"], whole["last"] + [[-4e6], [-3e6], [0]])


def test_states_of_the_whole_are_not_given_to_chunks():
    given = feeds() | {"initial_h": np.ones((1, 3, 1))}
    trial = Trial(graph(), Case(6, 3, chunks=(6,)), [given])
    assert [part.keys() for part in trial.chunks()] == [{"x", "z", "own"}]


def test_outputs_of_chunks_that_are_given_are_stacked():
    parts = [feeds(2, seed=n) for n in range(3)]
    trial = Trial(graph(2), Case(6, 3, chunks=(2, 2, 2)), parts)
    joined = trial.run(model)
    assert trial.chunks() is parts
    assert (joined["y"].shape, joined["last"].shape) == ((3, 2, 3, 1), (3, 3, 1))
    assert joined["h_n"].shape == (1, 3, 1)
    whole = np.concatenate([part["x"] for part in parts])
    np.testing.assert_array_equal(joined["y"].reshape(6, 3, 1), np.cumsum(whole, 0))
    np.testing.assert_array_equal(joined["next_step"], [6, 6, 6])


def test_a_whole_sequence_is_one_run():
    trial = Trial(graph(), Case(6, 3, chunks=(2, 4)), [feeds()])
    np.testing.assert_array_equal(trial.run(model)["last"], model(feeds())["last"])


def test_streams_are_repeated():
    given = feeds() | {"initial_h": np.arange(3.0).reshape(1, 3, 1)}
    wide = Trial(graph(), Case(6, 3), [given]).repeated(2)
    assert wide.feeds[0]["x"].shape == (6, 6, 1)
    np.testing.assert_array_equal(wide.feeds[0]["x"][:, 3:], given["x"])
    np.testing.assert_array_equal(wide.feeds[0]["initial_h"][0, :, 0], [0, 1, 2, 0, 1, 2])


def defaults(time):
    return {
        "initial_h": np.full((1, 1, 1), 0.5),
        "initial_c": np.zeros((1, 1, 1)),
        "start_step": np.array([time]),
    }


@pytest.mark.parametrize("together", [True, False])
def test_side_by_side_they_give_what_they_give_alone(together):
    state = {"initial_h": np.arange(2.0).reshape(1, 2, 1), "start_step": np.array([3, 4])}
    trials = [
        Trial(graph(), Case(6, 3), [feeds() | {"initial_h": np.full((1, 3, 1), 0.5)}]),
        Trial(graph(), Case(6, 2), [feeds(streams=2, seed=1) | state]),
        Trial(graph(), Case(6, 1), [feeds(streams=1, seed=2) | {"start_step": np.array([6])}]),
    ]
    runs = []

    def function(trial):
        runs.append(trial)
        results = trial.run(model)
        return [results, {name: -array for name, array in results.items()}]

    found = Together(trials, defaults if together else None).map(function)
    assert len(runs) == (1 if together else 3)
    assert sum(trial.case.batch for trial in runs) == 6
    for trial, (results, negative) in zip(trials, found, strict=True):
        given = {n: d.repeat(trial.case.batch, d.ndim // 2) for n, d in defaults(6).items()}
        alone = model((given if together else {}) | trial.feeds[0])
        assert results.keys() == alone.keys()
        for name, array in alone.items():
            np.testing.assert_array_equal(results[name], array)
            np.testing.assert_array_equal(negative[name], -array)


def test_alike_is_but_for_rounding_and_relative_to_the_output():
    one = {"y": np.array([1e-9, -2e-9]), "n": np.array([3, 4])}
    for by, same in ((1e-18, True), (3e-18, False), (np.nan, False)):
        assert alike(one, one | {"y": one["y"] + by}) == same
    assert not alike(one, one | {"n": np.array([3, 5])})
    assert not alike(one, one | {"y": np.zeros(3)})
    assert alike({"y": np.zeros(2)}, {"y": np.zeros(2)})


def test_one_alone_is_left_as_it_is():
    trial = Trial(graph(), Case(6, 3), [feeds()])
    (found,) = Together([trial], defaults).map(lambda one: [{"same": one is trial}])
    assert found == ({"same": True},)
