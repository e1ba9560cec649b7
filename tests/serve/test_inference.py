"""Tensors in JSON, against Python's own reader and numpy."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.serve import inference
from bnlstm_deploy.serve.inference import (
    Described,
    check_outputs,
    from_json,
    from_numbers,
    read_parameters,
)
from bnlstm_deploy.signature import Value

DTYPES = st.sampled_from([np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)])
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


def described(shape, dtype=np.float32):
    return Described("x", np.dtype(dtype), tuple(shape))


@given(data=st.data(), dtype=DTYPES, shape=SHAPES)
def test_lists_flat_and_nested_are_their_array(data, dtype, shape):
    array = data.draw(hnp.arrays(dtype, shape))
    values = np.where(np.isfinite(array), array, 0) if dtype.kind == "f" else array
    lists = data.draw(st.sampled_from([values.tolist(), values.ravel().tolist()]))
    text = json.dumps(lists, indent=data.draw(st.sampled_from([None, 0, 3]))).encode()
    read = from_json(described(shape, dtype), text)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, values)


@given(shape=SHAPES, other=SHAPES)
def test_lists_of_another_shape_are_refused(shape, other):
    array = np.ones(other, np.float32)
    text = json.dumps(array.tolist()).encode()
    flat = array.tolist() == np.ones(math.prod(shape)).tolist()
    same = array.tolist() == np.ones(shape).tolist()  # what is in nothing is not written
    if same or flat:
        assert from_json(described(shape), text).shape == tuple(shape)
    else:
        with pytest.raises(InputError, match="is not of shape"):
            from_json(described(shape), text)


def test_nan_is_null():
    read = from_json(described((3,)), b"[1, null, -2.5e0]")
    np.testing.assert_array_equal(read, np.array([1, np.nan, -2.5], np.float32))


@pytest.mark.parametrize("piece", [1, 2, 7, 100])
def test_pieces_make_the_whole(monkeypatch, piece):
    monkeypatch.setattr(inference, "PIECE", piece)
    array = np.random.default_rng(0).standard_normal((4, 5, 3))
    read = from_json(described(array.shape, np.float64), json.dumps(array.tolist()).encode())
    np.testing.assert_array_equal(read, array)
    again = from_numbers(described(array.shape, np.float64), array.ravel().tolist())
    np.testing.assert_array_equal(again, array)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"1", "pass a list"),
        (b'"[1,2]"', "pass a list"),
        (b'["a,b"]', "no float32"),
        (b'[1,"]"]', "not of shape"),
        (b"[[1],2]", "not of shape"),
        (b"[[1,2]]", "not of shape"),
        (b"[{},1]", "no float32"),
        (b"[true,1]", "no float32"),
        (b"[1,1e39]", "out of the range"),
        (b"[" * 1000 + b"1,2" + b"]" * 1000, "not of shape"),
    ],
)
def test_what_is_no_list_of_numbers_of_that_shape(text, why):
    with pytest.raises(InputError, match=why):
        from_json(described((2,)), text)


def test_a_shape_of_nothing_takes_no_memory():
    with pytest.raises(InputError, match="not of shape"):
        from_json(described((10**12, 0)), b"[1]")
    assert from_json(described((10**12, 0)), b"[]").shape == (10**12, 0)


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"timeout": -1}, "timeout is -1"),
        ({"timeout": "1"}, "timeout is '1'"),
        ({"timeout": True}, "timeout is True"),
        ({"priority": 1}, "priority"),
        ({"sequence_start": True}, "without a sequence_id"),
    ],
)
def test_parameters_that_cannot_be_honoured_are_refused(parameters, why):
    with pytest.raises(InputError, match=why):
        read_parameters(parameters)


def test_a_timeout_is_in_microseconds():
    assert read_parameters({"timeout": 1500}) == (None, 0.0015)
    assert read_parameters({"timeout": 0, "priority": 0, "other": 1}) == (None, None)


def test_a_classification_is_refused():
    known = [Value("y", np.dtype(np.float32), (1,))]
    assert check_outputs([("y", {"classification": 0})], known) == ["y"]
    with pytest.raises(InputError, match="classification of 'y'"):
        check_outputs([("y", {"classification": 3})], known)


def test_outputs_are_known_and_asked_for_once():
    known = [Value(name, np.dtype(np.float32), (1,)) for name in "yz"]
    assert check_outputs([], known) is None
    assert check_outputs([("z", {}), ("y", {})], known) == ["z", "y"]
    with pytest.raises(InputError, match="no output 'x'; it has"):
        check_outputs([("y", {}), ("x", {})], known)
    with pytest.raises(InputError, match="asked for twice"):
        check_outputs([("y", {}), ("z", {}), ("y", {}), ("x", {})], known)
