"""Whose state is held, and for how long."""

import numpy as np
import pytest

from bnlstm_deploy.errors import InputError, OverloadedError, SequenceError
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.serve.limits import Limits
from bnlstm_deploy.serve.sequences import Chunk, Sequences
from bnlstm_deploy.signature import Signature


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sequences(files, clock):
    limits = Limits(max_sequences=2, sequence_idle=10.0)
    return Sequences(Session(files / "dynamic.onnx").signature, limits, clock)


def results(value, streams=1):
    state = np.full((2, streams, 8), value, np.float32)
    return {"h_n": state, "c_n": -state, "next_step": np.full(streams, 3), "output": state}


def test_a_state_is_handed_from_chunk_to_chunk(sequences):
    assert sequences.state(Chunk(5, True, False), 1) == {}
    sequences.keep(Chunk(5, True, False), 1, results(1))
    feeds = sequences.state(Chunk(5, False, False), 1)
    assert feeds.keys() == {"initial_h", "initial_c", "start_step"}
    assert (feeds["initial_h"] == 1).all()
    assert (feeds["initial_c"] == -1).all()
    assert feeds["start_step"].tolist() == [3]
    sequences.keep(Chunk(5, False, True), 1, results(2))
    assert len(sequences) == 0
    with pytest.raises(SequenceError, match="no sequence 5: it was not started, was ended"):
        sequences.state(Chunk(5, False, False), 1)


def test_numbers_and_text_are_different_ids(sequences):
    sequences.keep(Chunk(5, True, False), 1, results(1))
    with pytest.raises(SequenceError, match="no sequence '5'"):
        sequences.state(Chunk("5", False, False), 1)


def test_a_start_begins_anew(sequences):
    sequences.keep(Chunk(5, True, False), 1, results(1))
    assert sequences.state(Chunk(5, True, False), 2) == {}


def test_idle_sequences_are_dropped(sequences, clock):
    sequences.keep(Chunk("a", True, False), 1, results(1))
    clock.now = 6.0
    sequences.keep(Chunk("b", True, False), 1, results(2))
    sequences.check(Chunk("a", False, False), 1, {})  # a chunk that arrives keeps it
    clock.now = 15.0
    assert len(sequences) == 2
    clock.now = 16.5
    assert len(sequences) == 0
    with pytest.raises(SequenceError, match="had no chunk for 10 s"):
        sequences.state(Chunk("a", False, False), 1)


def test_one_more_than_there_may_be(sequences, clock):
    for name in "ab":
        sequences.keep(Chunk(name, True, False), 1, results(1))
    with pytest.raises(OverloadedError, match=r"2 streams .* held; the limit max_sequences is 2"):
        sequences.state(Chunk("c", True, False), 1)
    assert sequences.state(Chunk("a", True, False), 1) == {}
    clock.now = 11.0
    assert sequences.state(Chunk("c", True, False), 1) == {}


def test_the_number_of_streams_is_fixed(sequences):
    sequences.keep(Chunk(5, True, False), 2, results(1, 2))
    with pytest.raises(InputError, match="sequence 5 has 2 streams, this chunk 3"):
        sequences.state(Chunk(5, False, False), 3)


def test_only_the_first_chunk_brings_a_state(sequences):
    given = {"initial_h": np.zeros((2, 1, 8), np.float32)}
    sequences.check(Chunk(5, True, False), 1, given)
    with pytest.raises(InputError, match="'initial_h' is given for sequence 5"):
        sequences.check(Chunk(5, False, False), 1, given)


def test_models_that_cannot_continue(files):
    sequences = Sequences(Session(files / "bidirectional.onnx").signature, Limits())
    with pytest.raises(InputError, match=r"is a model with two directions, .* without sequence_id"):
        sequences.check(Chunk(5, True, False), 1, {})


def test_a_model_that_passes_its_states_itself_cannot_continue():
    sequences = Sequences(Signature((), (), (), (), ("",)), Limits())
    with pytest.raises(InputError, match="a model that passes states to its BNLSTM itself"):
        sequences.check(Chunk(5, True, False), 1, {})


def test_streams_that_start_together_count_before_they_are_held(sequences):
    assert sequences.state(Chunk("a", True, False), 2) == {}
    with pytest.raises(OverloadedError, match="2 streams of sequences are held"):
        sequences.state(Chunk("b", True, False), 1)
    sequences.fail(Chunk("a", True, False))
    assert sequences.state(Chunk("b", True, False), 1) == {}
    with pytest.raises(InputError, match="3 streams are more than the server's max_sequences of 2"):
        sequences.check(Chunk("c", True, False), 3, {})


def test_sequences_are_taken_over(files, sequences):
    other = Sequences(Session(files / "dynamic.onnx").signature, Limits(), sequences._clock)
    sequences.keep(Chunk(5, True, False), 2, results(1, 2))
    other.take_over(sequences)
    assert (len(sequences), len(other)) == (0, 1)
    assert (other.state(Chunk(5, False, False), 2)["initial_h"] == 1).all()
    assert sequences.state(Chunk(6, True, False), 2) == {}  # there is room again
