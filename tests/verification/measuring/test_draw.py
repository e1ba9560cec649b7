"""The inputs that are drawn for a case."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bnlstm_deploy.metadata import RecurrentLayers
from bnlstm_deploy.signature import Signature, Value
from bnlstm_deploy.verification.measuring.cases import Case
from bnlstm_deploy.verification.measuring.draw import MEMORY, Draw

FLOAT, INT = np.dtype(np.float32), np.dtype(np.int64)
LAYERS = RecurrentLayers("", 2, 4, 1, 1, 5, ("input",), True)
EVERYTHING = ("initial_h", "initial_c", "lengths", "start_step")


def draw(*taken, length=None):
    inputs = (Value("x", FLOAT, ("time", "batch", 2)),)
    signature = Signature(inputs, (), (), (), ("",), step_bytes=100)
    graph = SimpleNamespace(
        inputs=inputs,
        state_inputs=tuple(Value(name, FLOAT, ()) for name in taken),
        metadata=SimpleNamespace(length=length, layers=[LAYERS]),
        signature=signature,
    )

    def sample(generator, batch, time):
        x = torch.from_numpy(generator.standard_normal((time, batch, 2), np.float32))
        return [x.requires_grad_()]

    return Draw(graph, sample, np.random.default_rng(0), ("own",))


CASE = Case(3, 4, state=True, lengths="random", steps="random")


def test_a_case_gets_what_the_graph_takes():
    trial = draw(*EVERYTHING)(CASE)
    (feeds,) = trial.feeds
    assert feeds.keys() == {"x", *EVERYTHING}
    assert feeds["x"].shape == (3, 4, 2)
    assert trial.case == CASE
    assert trial.lengths == ("own",)
    assert draw("lengths")(CASE).feeds[0].keys() == {"x", "lengths"}
    assert draw(*EVERYTHING)(Case(3, 4)).feeds[0].keys() == {"x"}


@pytest.mark.parametrize("one", ["initial_h", "initial_c"])
def test_one_state_without_the_other_is_not_given(one):
    assert draw(one, "lengths")(CASE).feeds[0].keys() == {"x", "lengths"}


def test_chunks_of_a_fixed_time_are_drawn_one_by_one():
    case = Case(6, 4, chunks=(2, 2, 2))
    parts = draw(*EVERYTHING, length=2)(case).feeds
    assert [part["x"].shape for part in parts] == [(2, 4, 2)] * 3
    assert not np.array_equal(parts[0]["x"], parts[1]["x"])
    assert [part["x"].shape for part in draw()(case).feeds] == [(6, 4, 2)]
    assert [part["x"].shape for part in draw(length=6)(Case(6, 4)).feeds] == [(6, 4, 2)]


def test_memory_is_bounded():
    # 100 bytes of the body, and 8 of x
    assert draw().most_streams(1000) == MEMORY // 108_000
    assert draw().most_streams(10**9) == 1
