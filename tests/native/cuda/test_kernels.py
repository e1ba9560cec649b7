"""The kernels in Triton's language against docs/operator.md, in Triton's interpreter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native.cuda.interpreter import Tiles, run
from tests.native.cuda.products import bfloat16_products  # noqa: F401 (a fixture)
from tests.native.draws import inputs
from tests.native.reference import compute
from tests.native.test_contract import assert_right

# numpy warns of what a GPU computes in silence: infinities, of which the functions have limits.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

TILES = st.builds(Tiles, *[st.sampled_from([16, 32])] * 3)


@settings(max_examples=40)
@given(st.data(), st.booleans(), TILES)
def test_all_of_the_contract(data, sequence, tiles):
    arrays = data.draw(inputs(np.float32))
    assert_right(arrays, run(arrays, sequence=sequence, tiles=tiles))


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("hidden", [1, 16, 17, 100, 128])
def test_tiles_that_do_not_divide(sequence, hidden):
    random = np.random.default_rng(0)
    arrays = {
        "X": random.standard_normal((5, 19, 7)),
        "weight_ih": random.standard_normal((4 * hidden, 7)),
        "weight_hh": random.standard_normal((4 * hidden, hidden)) / hidden**0.5,
        "bias": random.standard_normal((3, 4 * hidden)),
        "hidden_scale": 1 + 0.5 * random.standard_normal((3, 4 * hidden)),
        "initial_h": random.uniform(-1, 1, (1, hidden)),
        "initial_c": random.standard_normal((19, hidden)),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    assert_right(arrays, run(arrays, sequence=sequence, tiles=Tiles(16, 32, 32)))


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_operands(sequence, dtype):
    """X, weights and h as an operand are rounded, and nothing else is."""
    random = np.random.default_rng(0)

    def normal(*shape, scale=1.0, rounded=False):
        array = torch.from_numpy(scale * random.standard_normal(shape)).float()
        return np.asarray(array.to(dtype).float() if rounded else array)

    arrays = {
        "X": normal(6, 5, 8, rounded=True),
        "weight_ih": normal(80, 8, rounded=True),
        "weight_hh": normal(80, 20, scale=0.2, rounded=True),
        "bias": normal(2, 80),
        "initial_h": normal(5, 20, scale=0.5),
        "initial_c": normal(5, 20),
        "cell_scale": 1 + normal(2, 20, scale=0.5),
        "cell_shift": normal(2, 20),
        "lengths": np.array([6, 0, 3, 6, 1]),
    }
    results = run(arrays, sequence=sequence, dtype=dtype)
    truth = compute(arrays)
    eps = torch.finfo(dtype).eps
    for name, expected in truth.items():
        assert np.abs(results[name] - expected).max() < 4 * eps, name
    # What is not rounded agrees far better than its dtype could tell: the first timestep's cell.
    first = {**arrays, "X": arrays["X"][:1], "initial_h": np.zeros((1, 20), np.float32)}
    first["lengths"] = np.ones(5, np.int64)
    cell = run(first, sequence=sequence, dtype=dtype)["Y_c"]
    np.testing.assert_allclose(cell, compute(first)["Y_c"], rtol=0, atol=4e-6)


@pytest.mark.parametrize("sequence", [False, True])
def test_what_is_past_a_length_reaches_nothing(sequence):
    random = np.random.default_rng(0)
    arrays = {
        "X": random.standard_normal((4, 3, 2)),
        "weight_ih": random.standard_normal((12, 2)),
        "weight_hh": random.standard_normal((12, 3)),
        "bias": random.standard_normal((2, 12)),
        "initial_h": random.uniform(-1, 1, (3, 3)),
        "initial_c": random.standard_normal((3, 3)),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    arrays["lengths"] = np.array([4, 2, 0])
    for n, length in enumerate(arrays["lengths"]):
        arrays["X"][length:, n] = np.nan
    assert_right(arrays, run(arrays, sequence=sequence))


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize(
    ("name", "value"),
    [("lengths", -1), ("start_step", -1), ("start_step", -(2**62)), ("rows", 2), ("rows", -1)],
)
def test_a_stream_with_a_value_that_may_not_be_becomes_nan(sequence, name, value):
    """And the others are right: where the values are, nobody can look without a wait."""
    random = np.random.default_rng(0)
    arrays = {
        "X": random.standard_normal((3, 3, 2)),
        "weight_ih": random.standard_normal((12, 2)),
        "weight_hh": random.standard_normal((12, 3)),
        "bias": random.standard_normal((2, 12)),
        "hidden_scale": random.standard_normal((2, 12)),
        "initial_h": random.uniform(-1, 1, (1, 3)),
        "initial_c": random.standard_normal((1, 3)),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    arrays["lengths"] = np.array([3, 3, 2])
    arrays["start_step"] = np.array([0, 10, 0])
    arrays["rows"] = np.array([0, 0, 1, 0, 1])
    right = run(arrays, sequence=sequence)
    arrays[name] = arrays[name].copy()
    arrays[name][-1 if name == "rows" else 1] = value  # a row that the middle stream alone uses
    results = run(arrays, sequence=sequence)
    assert np.isnan(results["Y"][:, 1]).all()
    for output in results:
        assert np.isnan(results[output][..., 1, :]).all()
        np.testing.assert_array_equal(results[output][..., ::2, :], right[output][..., ::2, :])


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 0.3, 0.6249, 0.6251, 3.0, 50.0, 200.0, np.inf])
def test_tanh_and_sigmoid_at_all_sizes(scale):
    """Through a node without products: i = f = o = sigmoid(0), g = +-scale."""
    signs = np.array([1, -1] * 8, np.float32)
    bias = np.zeros((1, 64), np.float32)
    bias[0, 32:48] = scale * signs
    arrays = {
        "X": np.zeros((1, 1, 1), np.float32),
        "weight_ih": np.zeros((64, 1), np.float32),
        "weight_hh": np.zeros((64, 16), np.float32),
        "bias": bias,
        "initial_h": np.zeros((1, 16), np.float32),
        "initial_c": np.zeros((1, 16), np.float32),
    }
    for sequence in (False, True):
        cell = run(arrays, sequence=sequence)["Y_c"]
        expected = 0.5 * np.tanh(bias[0, 32:48].astype(np.float64))
        np.testing.assert_allclose(cell[0], expected, rtol=4e-7)
