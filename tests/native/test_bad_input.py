"""What contradicts the contract is an error with a sentence, and never a crash or a number."""

import numpy as np
import pytest

from tests.native.reference import INPUTS, Array, Node

TIME, BATCH, FEATURES, HIDDEN, ROWS = 4, 3, 2, 5, 2


@pytest.fixture
def arrays() -> dict[str, Array]:
    """Return the inputs of a node that is right, none left empty."""

    def ones(*shape: int) -> Array:
        return np.ones(shape, np.float32)

    return {
        "X": ones(TIME, BATCH, FEATURES),
        "weight_ih": ones(4 * HIDDEN, FEATURES),
        "weight_hh": ones(4 * HIDDEN, HIDDEN),
        "bias": ones(ROWS, 4 * HIDDEN),
        "initial_h": ones(BATCH, HIDDEN),
        "initial_c": ones(BATCH, HIDDEN),
        "input_scale": ones(ROWS, 4 * HIDDEN),
        "hidden_scale": ones(ROWS, 4 * HIDDEN),
        "cell_scale": ones(ROWS, HIDDEN),
        "cell_shift": ones(ROWS, HIDDEN),
        "lengths": np.full(BATCH, TIME),
        "start_step": np.zeros(BATCH, np.int64),
        "rows": np.array([0, 1, 1]),
    }


def test_what_is_right_runs(arrays):
    assert Node(arrays).run()["Y"].shape == (TIME, BATCH, HIDDEN)


CONSTANT = [(), INPUTS[1:]]


@pytest.mark.parametrize("constant", CONSTANT, ids=["inputs", "initializers"])
@pytest.mark.parametrize(
    ("name", "axis"),
    [(name, axis) for name in INPUTS[:10] for axis in range(3 if name == "X" else 2)]
    + [("lengths", 0), ("start_step", 0)],
)
@pytest.mark.parametrize("by", [1, -1, 6])
def test_every_axis_has_to_fit(arrays, name, axis, by, constant):
    if name == "X" and axis == 0:
        pytest.skip("T is whatever it is")
    shape = list(arrays[name].shape)
    shape[axis] = max(shape[axis] + by, 0)
    wrong = np.ones(shape, arrays[name].dtype)
    with pytest.raises(Exception, match=r"BNLSTM: \w+ has the shape \(.*it must be .*T = 4"):
        Node(arrays | {name: wrong}, frozenset(constant)).run()


@pytest.mark.parametrize("constant", CONSTANT, ids=["inputs", "initializers"])
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("more", [True, False])
def test_the_number_of_axes_has_to_fit(arrays, name, more, constant):
    array = arrays[name]
    wrong = array[..., None] if more else array[..., 0]
    with pytest.raises(Exception, match=rf"BNLSTM: {name} has the shape \(.*it must be"):
        Node(arrays | {name: wrong}, frozenset(constant)).run()


@pytest.mark.parametrize("constant", CONSTANT, ids=["inputs", "initializers"])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rows", -1, r"rows\[2\] is -1; bias has 2 rows, so it must be 0 to 1"),
        ("rows", 2, r"rows\[2\] is 2; bias has 2 rows"),
        ("rows", 2**33, r"rows\[2\] is 8589934592"),
        ("lengths", -1, r"lengths\[2\] is -1; it must be at least 0"),
        ("lengths", -(2**63), r"lengths\[2\] is -9223372036854775808"),
        ("start_step", -5, r"start_step\[2\] is -5; it must be at least 0"),
    ],
)
def test_values_have_to_exist(arrays, name, value, message, constant):
    arrays[name][2] = value
    with pytest.raises(Exception, match=f"BNLSTM: {message}"):
        Node(arrays, frozenset(constant)).run()


@pytest.mark.parametrize("name", ["cell_scale", "cell_shift"])
def test_a_cell_has_both_or_neither(arrays, name):
    del arrays[name]
    other = {"cell_scale": "cell_shift", "cell_shift": "cell_scale"}[name]
    with pytest.raises(Exception, match=f"BNLSTM: {other} is given without {name}; give both"):
        Node(arrays).run()


@pytest.mark.parametrize("name", ["bias", "rows"])
def test_there_is_a_row(arrays, name):
    with pytest.raises(Exception, match=rf"BNLSTM: {name} has the shape \(0.*must be one"):
        Node(arrays | {name: arrays[name][:0]}).run()


def test_sizes_that_overflow(arrays):
    huge = {
        "X": np.ones((TIME, 0, FEATURES), np.float32),
        "weight_ih": np.ones((0, FEATURES), np.float32),
        "weight_hh": np.ones((0, 2**33), np.float32),
        "bias": np.ones((1, 0), np.float32),
    }
    for name in ("initial_h", "initial_c"):
        huge[name] = np.ones((0, 2**33), np.float32)
    with pytest.raises(Exception, match=r"BNLSTM: weight_hh has the shape \(0, 8589934592"):
        Node(huge).run()


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.int32])
def test_types_may_not_mix(arrays, name, dtype):
    if arrays[name].dtype == dtype:
        pytest.skip("this is its type")
    with pytest.raises(Exception, match="BNLSTM"):
        Node(arrays | {name: arrays[name].astype(dtype)}).run()
