"""Sigmoid and tanh of the native kernel are within 2 ULP over all floats.

`FLOATS_STRIDE=1 pytest tests/native/test_activations.py` takes every float32 there is, in minutes;
otherwise it is every 1021st and what is special.
"""

import os
from collections.abc import Iterator

import numpy as np
import pytest

from bnlstm_deploy.runtime.kernel import instruction_sets
from tests.native.reference import Array, Node, sigmoid

STRIDE = int(os.environ.get("FLOATS_STRIDE", "1021"))
HIDDEN = 256
"""Units: whole panels, whatever the width of a vector."""
STREAMS = 4096
EDGES = [
    0.0,
    1e-45,
    1.17549435e-38,
    9.0,
    10.0,
    20.0,
    87.4,
    88.5,
    103.9,
    103.98,
    104.0,
    105.0,
    106.0,
]
SPECIAL = np.array([*EDGES, 3.4e38, np.inf, np.nan], np.float32)
SPECIAL = np.concatenate([SPECIAL, -SPECIAL])
ZERO, ONE = np.float32(-200), np.float32(200)
"""What sigmoid is 0 or 1 of."""


def floats() -> Iterator[Array]:
    """Yield (STREAMS, HIDDEN) floats at a time."""
    size = STREAMS * HIDDEN
    for begin in range(0, 2**32, size * STRIDE):
        bits = np.arange(begin, min(begin + size * STRIDE, 2**32), STRIDE, dtype=np.uint64)
        values = bits.astype(np.uint32).view(np.float32)
        values = np.resize(values, size)
        values[: len(SPECIAL)] = SPECIAL
        yield values.reshape(STREAMS, HIDDEN)


def run(session_of: Node, gates: dict[str, Array], c: Array) -> dict[str, Array]:
    """Run one timestep, whose gates are those given, and whose c before is that given."""
    rows = np.concatenate([np.broadcast_to(gates[g], c.shape) for g in "ifgo"], axis=1)
    return Node(
        {
            **session_of.inputs,
            "bias": np.ascontiguousarray(rows, np.float32),
            "initial_c": c,
            "start_step": np.arange(len(c)),
        },
        session_of.constant,
        ("Y_h", "Y_c"),
        session_of.instruction_set,
    ).run()


def errors(results: Array, truth: Array) -> Array:
    """Return the errors in ULP; NaN and infinities have to be the same."""
    np.testing.assert_array_equal(np.isnan(results), np.isnan(truth))
    with np.errstate(invalid="ignore"):
        ulp = np.spacing(np.abs(truth).astype(np.float32)).astype(np.float64)
        ulps: Array = np.nan_to_num(np.abs(results - truth) / ulp)
    return ulps


@pytest.mark.parametrize("instruction_set", instruction_sets())
def test_within_2_ulp(instruction_set):
    zeros = np.zeros((4 * HIDDEN, HIDDEN), np.float32)
    node = Node(
        {
            "X": np.zeros((1, STREAMS, 1), np.float32),
            "weight_ih": zeros[:, :1],
            "weight_hh": zeros,
            "initial_h": zeros[:1],
        },
        frozenset({"weight_ih", "weight_hh"}),
        instruction_set=instruction_set,
    )
    worst = dict.fromkeys(("sigmoid(f)", "sigmoid(i)", "sigmoid(o)", "tanh(g)", "tanh(c)"), 0.0)
    one = np.ones((STREAMS, HIDDEN), np.float32)
    for x in floats():
        with np.errstate(invalid="ignore"):  # of signalling NaN
            double = x.astype(np.float64)
        true_sigmoid, true_tanh = sigmoid(double), np.tanh(double)
        large = 30 * one  # tanh of it is 1
        results = {
            "sigmoid(f)": run(node, {"i": ZERO, "f": x, "g": ONE, "o": ONE}, one)["Y_c"],
            "sigmoid(i)": run(node, {"i": x, "f": ZERO, "g": large, "o": ONE}, 0 * one)["Y_c"],
            "sigmoid(o)": run(node, {"i": ZERO, "f": ONE, "g": ONE, "o": x}, large)["Y_h"],
            "tanh(g)": run(node, {"i": ONE, "f": ZERO, "g": x, "o": ONE}, 0 * one)["Y_c"],
            "tanh(c)": run(node, {"i": ZERO, "f": ONE, "g": ONE, "o": ONE}, x)["Y_h"],
        }
        for name, result in results.items():
            truth = true_tanh if name.startswith("tanh") else true_sigmoid
            worst[name] = max(worst[name], float(errors(result, truth).max()))
    print(instruction_set, worst)
    assert max(worst.values()) <= 2, worst


@pytest.mark.parametrize("instruction_set", instruction_sets())
def test_tanh_of_a_negative_zero_is_one(instruction_set):
    zeros = np.zeros((4, 1), np.float32)
    arrays = {
        "X": np.zeros((1, 1, 1), np.float32),
        "weight_ih": zeros,
        "weight_hh": zeros,
        "bias": np.full((1, 4), ONE),
        "initial_h": zeros[:1],
        "initial_c": np.full((1, 1), -0.0, np.float32),
    }
    arrays["bias"][0, [0, 2]] = ZERO
    result = Node(arrays, instruction_set=instruction_set).run()
    assert np.signbit(result["Y_c"]).all()
    assert np.signbit(result["Y"]).all()
