"""Buffers: what a session's inputs and outputs pass through."""

import numpy as np

from bnlstm_deploy.runtime.device import Buffer, Device

CPU = Device("cpu", 0)


def test_a_smaller_array_is_followed_by_zeros_whatever_was_there():
    buffer = Buffer((2, 3), np.dtype(np.float32), CPU)
    buffer.write(np.full((2, 3), 7, np.float32))
    buffer.write(np.ones((1, 2), np.float32))
    assert buffer.read().tolist() == [[1, 1, 0], [0, 0, 0]]
    assert buffer.value.numpy().tolist() == [[1, 1, 0], [0, 0, 0]]


def test_what_is_read_is_a_copy():
    buffer = Buffer((2,), np.dtype(np.int64), CPU)
    before = buffer.read((1,))
    buffer.write(np.array([4, 5]))
    assert before.tolist() == [0]
    assert buffer.read((1,)).tolist() == [4]
