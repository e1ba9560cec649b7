"""The conditions of a check, and what is drawn for them."""

from types import SimpleNamespace

import numpy as np
import pytest

from bnlstm_deploy.errors import VerificationError
from bnlstm_deploy.metadata import RecurrentLayers
from bnlstm_deploy.signature import Value
from bnlstm_deploy.verification.measuring.cases import (
    FAR,
    Case,
    default_sample,
    make_cases,
    make_given,
)

S = 5
FLOAT = np.dtype(np.float32)


def cases(steps=S, *, streams=True, most=1000, **options):
    limit = most if callable(most) else lambda time: most
    generator = np.random.default_rng(0)
    return make_cases(steps, streams=streams, generator=generator, most_streams=limit, **options)


def test_lengths_are_around_the_steps_and_past_them():
    found = cases()
    whole = [case for case in found if not case.chunks]
    assert {1, 2, 4, 5, 6, 10, 20, 31} <= {case.time for case in whole}
    random = whole[-6:-2]
    assert all(1 <= case.time <= 4 * S and case.batch == 2 and case.state for case in random)
    # one stream and several, from zero and from a given state in turns
    for number, time in enumerate((1, 2, 4, 5, 6, 10, 20)):
        state = number % 2 == 0
        assert whole[2 * number : 2 * number + 2] == [
            Case(time, 1, state),
            Case(time, 7, not state),
        ]
    padded = whole[14:21]
    assert [case.time for case in padded] == [1, 2, 4, 5, 6, 10, 20]
    assert {(c.batch, c.state, c.lengths, c.steps) for c in padded} == {
        (7, True, "random", "random")
    }
    assert Case(6, 7, lengths="equal") in found
    assert Case(6, 7, state=True, lengths="all") in found
    assert Case(5, 64, state=True) in found
    assert Case(3, 130, state=True, lengths="random") in found
    assert Case(6, 7, state=True, lengths="random", steps="far") in found
    assert whole[-2:] == [
        Case(31, 1, state=True),
        Case(6, 7, state=True, lengths="random", steps="far"),
    ]


def test_chunks_are_those_of_models_that_stream():
    found = [case for case in cases() if case.chunks]
    assert [case.time for case in found] == [2, 6, 20]
    for case in found:
        assert sum(case.chunks) == case.time
        assert len(case.chunks) in (2, 3, 4)
        assert min(case.chunks) >= 1
    whole = cases(streams=False)
    assert not any(case.chunks or case.steps for case in whole)


@pytest.mark.parametrize(
    ("steps", "times"), [(1, [1, 2, 4]), (2, [1, 2, 3, 4, 8]), (6, [1, 2, 5, 6, 7, 12, 24])]
)
def test_of_few_steps_and_of_an_even_number(steps, times):
    found = cases(steps)
    assert [case.time for case in found if case.steps == "random"] == times
    assert {case.time for case in found if case.chunks} == {2, steps + 1, 4 * steps} - {1}


def test_a_graph_for_one_length_has_no_other():
    found = cases(length=9)
    assert {case.time for case in found if not case.chunks} == {9}
    assert [case.chunks for case in found if case.chunks] == [(9, 9), (9, 9, 9)]
    assert {(case.batch, case.state) for case in found[:4]} == {
        (1, False),
        (1, True),
        (7, False),
        (7, True),
    }


def test_no_more_streams_than_fit():
    few = cases(most=lambda time: 3 if time < 10 else 0)
    assert max(case.batch for case in few) == 3
    assert {case.batch for case in few if case.time >= 10 and case.batch != 1} <= {2}


def test_a_case_says_what_it_is():
    assert str(Case(4, 2)) == "T=4, N=2"
    words = "T=4, N=2, random state, all lengths, far steps, chunks 1+3"
    assert str(Case(4, 2, True, "all", "far", (1, 3))) == words


LAYERS = RecurrentLayers("rnn", 3, 4, 2, 2, S, ("input",), True)


def given(case, layers=LAYERS, seed=0):
    return make_given(case, [layers], np.random.default_rng(seed))


def test_states_are_within_what_layers_give():
    assert given(Case(4, 6)) == {}
    found = given(Case(4, 6, state=True))
    assert found.keys() == {"rnn.initial_h", "rnn.initial_c"}
    h, c = found["rnn.initial_h"], found["rnn.initial_c"]
    assert h.shape == c.shape == (4, 6, 4)
    assert h.dtype == c.dtype == np.float32
    assert -1 <= h.min() < -0.8 < 0.8 < h.max() <= 1
    assert np.abs(c).max() > 1.5


def test_lengths_have_both_ends():
    for seed in range(5):
        random = given(Case(6, 7, lengths="random"), seed=seed)["rnn.lengths"]
        assert random[:2].tolist() == [6, 0]
        assert 0 <= random.min() <= random.max() <= 6
    for time in (5, 6):
        random = given(Case(time, 100, lengths="random"))["rnn.lengths"]
        assert {*random.tolist()} == {*range(time + 1)}
    assert given(Case(6, 1, lengths="random"))["rnn.lengths"].tolist() == [6]
    assert given(Case(6, 3, lengths="equal"))["rnn.lengths"].tolist() == [5, 5, 5]
    assert given(Case(1, 2, lengths="equal"))["rnn.lengths"].tolist() == [1, 1]
    assert sorted(given(Case(3, 4, lengths="all"))["rnn.lengths"].tolist()) == [0, 1, 2, 3]
    assert len(given(Case(3, 9, lengths="all"))["rnn.lengths"]) == 9


def test_start_steps_are_those_of_graphs_that_stream():
    steps = given(Case(4, 200, steps="random"))["rnn.start_step"]
    assert {*steps.tolist()} == set(range(S + 2))
    far = given(Case(4, 200, steps="far"))["rnn.start_step"]
    assert far.dtype == steps.dtype == np.int64
    assert {*far.tolist()} == set(FAR)
    whole = RecurrentLayers("rnn", 3, 4, 2, 2, S, ("input",), False)
    assert given(Case(4, 2, steps="random"), whole) == given(Case(4, 2, steps="far"), whole) == {}


def graph(*inputs, length=None, **time_axes):
    return SimpleNamespace(
        inputs=inputs, metadata=SimpleNamespace(length=length, time_axes=time_axes)
    )


def test_samples_have_the_declared_shapes():
    several = graph(Value("x", FLOAT, ("time", "batch", 3)), Value("y", FLOAT, ("batch", 2)))
    x, y = default_sample(None, several)(np.random.default_rng(0), 5, 7)
    assert (x.shape, y.shape) == ((7, 5, 3), (5, 2))
    assert x.numpy().dtype == np.float32
    # a fixed T is a size where it is none of time
    fixed = graph(Value("x", FLOAT, ("batch", 4, 4)), length=4, x=1)
    (x,) = default_sample(None, fixed)(np.random.default_rng(0), 5, 7)
    assert x.shape == (5, 7, 4)


@pytest.mark.parametrize(
    "value",
    [
        Value("tokens", np.dtype(np.int64), ("batch", "time")),
        Value("x", None, ("batch", "time")),
        Value("x", FLOAT, ("batch", "width")),
    ],
)
def test_what_only_the_model_s_author_knows_is_asked_for(value):
    with pytest.raises(VerificationError, match=rf"'{value.name}' of a NoneType .* pass sample="):
        default_sample(None, graph(value))
