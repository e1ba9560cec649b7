"""The cost of changes on purpose, against numpy by hand; and how it is judged."""

import numpy as np
import pytest

from bnlstm_deploy.verification.judging.cost import cost


@pytest.mark.parametrize("axis", [0, 1])
def test_largest_and_mean_at_each_timestep(axis):
    generator = np.random.default_rng(0)
    truth = generator.standard_normal((2, 5, 3))
    moved = generator.standard_normal((2, 5, 3))
    found = cost("normal", truth.shape[axis], "output", truth + moved, truth, axis)
    other = 1 - axis
    np.testing.assert_allclose(found.largest, np.abs(moved).max(axis=(other, 2)))
    np.testing.assert_allclose(found.mean, np.abs(moved).mean(axis=(other, 2)))
    assert found.count == truth.shape[other] * 3


def test_without_timesteps_there_is_one_entry():
    found = cost("data", 7, "classes", np.array([[1.0, 2.0]]), np.array([[1.5, 2.0]]), None)
    assert (found.largest, found.mean, found.count) == ((0.5,), (0.25,), 2)


def test_the_sum_of_two_runs_is_that_of_all_their_streams():
    generator = np.random.default_rng(0)
    truth, moved = generator.standard_normal((2, 4, 7, 3))
    whole = cost("normal", 4, "output", truth + moved, truth, 0)
    first = cost("normal", 4, "output", (truth + moved)[:, :2], truth[:, :2], 0)
    rest = cost("normal", 4, "output", (truth + moved)[:, 2:], truth[:, 2:], 0)
    total = first + rest
    assert total.kind == whole.kind
    np.testing.assert_allclose(total.largest, whole.largest)
    np.testing.assert_allclose(total.mean, whole.mean)
    assert total.count == whole.count


def test_no_stream_costs_nothing():
    none = np.zeros((4, 0, 3))
    found = cost("normal", 4, "output", none, none, 0)
    assert (found.largest, found.mean) == ((0.0,) * 4, (0.0,) * 4)
    assert (found + found).mean == (0.0,) * 4
