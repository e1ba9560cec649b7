"""Stored weights give the bits that floats of the same values give, on every instruction set."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnlstm_deploy.runtime.kernel import instruction_sets
from tests.native.draws import inputs
from tests.native.reference import INPUTS, OUTPUTS, Node

WEIGHTS = ("weight_ih", "weight_hh")


def stored(array, dtype):
    """An array as a dtype, and the floats of the same values."""
    if dtype is np.int8:
        narrow = np.rint(40 * np.clip(array, -3, 3)).astype(np.int8)
    else:
        narrow = array.astype(dtype)
    return narrow, narrow.astype(np.float32)


@pytest.mark.parametrize("dtype", [np.int8, np.float16, ml_dtypes.bfloat16])
@given(
    inputs(),
    st.sampled_from(instruction_sets()),
    st.sampled_from([1, 2]),
    st.sampled_from([(), WEIGHTS, INPUTS[1:]]),
)
@settings(max_examples=60)
def test_to_the_bit(dtype, arrays, instruction_set, threads, constant):
    if dtype is ml_dtypes.bfloat16:
        constant = constant or WEIGHTS  # Python cannot pass arrays of it
    both = {name: stored(arrays[name], dtype) for name in WEIGHTS}
    for name in ("input_scale", "hidden_scale"):
        if name in arrays and dtype is np.int8:
            arrays[name] = (arrays[name] / 40).astype(np.float32)
    results = []
    for which in (0, 1):
        given_ = arrays | {name: pair[which] for name, pair in both.items()}
        names = frozenset(constant) & given_.keys()
        results.append(Node(given_, names, OUTPUTS, instruction_set, threads).run())
    for name in OUTPUTS:
        np.testing.assert_array_equal(results[0][name], results[1][name])


@pytest.mark.parametrize("instruction_set", instruction_sets())
def test_every_float16(instruction_set):
    """Subnormals, infinities and NaN among them, through a sum of one."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    for values in every.reshape(-1, 2048)[::3]:
        arrays = {
            "X": np.ones((1, 1, 1), np.float32),
            "weight_ih": values[:, None],
            "weight_hh": np.zeros((2048, 512), np.float16),
            "bias": np.zeros((1, 2048), np.float32),
            "initial_h": np.zeros((1, 512), np.float32),
            "initial_c": np.zeros((1, 512), np.float32),
        }
        floats = arrays | {name: arrays[name].astype(np.float32) for name in WEIGHTS}
        found, expected = (
            Node(given_, frozenset(WEIGHTS), OUTPUTS, instruction_set).run()
            for given_ in (arrays, floats)
        )
        for name in OUTPUTS:
            np.testing.assert_array_equal(found[name], expected[name])
