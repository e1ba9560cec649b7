"""Data of the user's own: what is read, how it is cut into batches, and what agrees."""

from types import SimpleNamespace

import numpy as np
import pytest

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.signature import Signature, Value
from bnlstm_deploy.verification.measuring.data import Agreement, agree, read_data

FLOAT = np.dtype(np.float32)


def graph(*shapes, length=None):
    inputs = tuple(Value(f"in_{n}", FLOAT, shape) for n, shape in enumerate(shapes))
    return SimpleNamespace(
        inputs=inputs,
        state_inputs=(),
        signature=Signature(inputs, (), (), (), ("",), length=length),
        metadata=SimpleNamespace(length=length),
    )


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return [tmp_path / "data.npz"]


@pytest.mark.parametrize("name", ["in_0", "x", "input"])
@pytest.mark.parametrize(
    ("shape", "size", "axis"),
    [(("batch", "time", 2), (5, 3, 2), 0), (("time", "batch", 2), (3, 5, 2), 1)],
)
def test_rows_and_timesteps_are_those_of_the_graph_s_axes(tmp_path, name, shape, size, axis):
    x, y = np.random.default_rng(0).random(size, np.float32), np.arange(5)
    data = read_data(saved(tmp_path, **{name: x, "y": y}), graph(shape))
    assert (data.rows, data.time) == (5, 3)
    batches = list(data.batches(2))
    assert [label for label, *_ in batches] == ["rows 0 to 1", "rows 2 to 3", "rows 4 to 4"]
    for start, (_, feeds, labels) in zip((0, 2, 4), batches, strict=True):
        rows = np.arange(start, min(start + 2, 5))
        np.testing.assert_array_equal(feeds["in_0"], x.take(rows, axis))
        np.testing.assert_array_equal(labels, y[rows])


@pytest.mark.parametrize(("length", "time"), [(7, 7), (None, 1)])
def test_of_a_graph_without_a_time_axis(tmp_path, length, time):
    data = read_data(saved(tmp_path, x=np.zeros((4, 7, 2))), graph(("batch", 7, 2), length=length))
    assert (data.rows, data.time, data.labels) == (4, time, None)
    assert all(labels is None for _, _, labels in data.batches(3))


def test_the_rows_of_a_graph_that_names_no_axis_are_the_first(tmp_path):
    assert read_data(saved(tmp_path, x=np.zeros((4, 2))), graph((4, 2))).rows == 4


X, LABELS = np.zeros((5, 3, 2)), np.zeros(5, np.int64)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X, "in_1": X}, r"holds the arrays \['in_1', 'x'\]"),
        ({"in_0": X, "in_1": X, "z": X}, r"holds the arrays \['in_0', 'in_1', 'z'\]"),
        ({"in_0": X}, r"holds the arrays \['in_0'\]; the graph's inputs are \['in_0', 'in_1'\]"),
        ({"in_0": X, "in_1": X[:4]}, r"'in_1' has batch 4, 'in_0' has 5; they must agree"),
        ({"in_0": X, "in_1": X[0]}, r"'in_1' has shape \(3, 2\); this graph takes 3 axes"),
        ({"in_0": X, "in_1": X[:0]}, r"'in_1' has shape \(0, 3, 2\); pass at least one element"),
        ({"in_0": X, "in_1": X, "y": LABELS[:4]}, r"y is int64 of shape \(4,\); pass integers for"),
        ({"in_0": X, "in_1": X, "y": LABELS[0]}, r"y is int64 of shape \(\); pass integers for 5"),
        ({"in_0": X, "in_1": X, "y": LABELS / 1}, r"y is float64 of shape \(5,\)"),
    ],
)
def test_what_does_not_fit(tmp_path, arrays, message):
    shape = ("batch", "time", 2)
    with pytest.raises(InputError, match=message):
        read_data(saved(tmp_path, **arrays), graph(shape, shape))


TRUTH = np.array([[[0.1, 0.9], [0.8, 0.2]], [[0.4, 0.6], [0.5, 0.4]], [[0.9, 0.1], [0.1, 0.9]]])
"""(N, T, K) = (3, 2, 2), whose answers are 1 0, 1 0 and 0 1."""


@pytest.mark.parametrize("batch_axis", [0, 1])
def test_answers_are_counted(batch_axis):
    actual = TRUTH.copy()
    actual[1, 0] = [0.6, 0.4]
    labels = np.array([[1, 0], [0, 0], [1, 1]])
    given = [np.moveaxis(a, 0, batch_axis) for a in (actual, TRUTH)]
    assert agree(*given, labels, batch_axis) == Agreement(6, 5, 6, 5, 4)
    assert agree(*given, None, batch_axis) == Agreement(6, 5)
    # labels of rows say nothing of timesteps
    assert agree(*given, labels[:, 0], batch_axis) == Agreement(6, 5)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 2, 1)])
def test_of_fewer_than_two_classes_there_are_no_answers(shape):
    assert agree(np.zeros(shape), np.zeros(shape), None, 0) is None


def test_two_classes_are_classes():
    assert agree(TRUTH[:, 0], TRUTH[:, 0], np.array([1, 1, 1]), 0) == Agreement(3, 3, 3, 2, 2)


def test_agreements_add_up_and_say_so():
    one = Agreement(6, 5, 6, 5, 4, provider="cpu")
    assert one + Agreement(2, 1, 2, 0, 1) == Agreement(8, 6, 8, 5, 5, provider="cpu")
    assert str(one) == "5 of 6 answers agree, accuracy 83.33 % against 66.67 % (+16.67)"
    assert str(Agreement(6, 5)) == "5 of 6 answers agree"
