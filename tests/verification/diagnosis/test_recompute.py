"""A timestep in float64, and how far rounding may take a graph from it."""

import numpy as np
import pytest

from bnlstm_deploy.dtypes import EPS
from bnlstm_deploy.folding import FoldedDirection
from bnlstm_deploy.verification.diagnosis.recompute import (
    ACTIVATION,
    ROUNDINGS,
    Rounding,
    StepInputs,
    Value,
    exact,
    recompute,
)

EPS32 = EPS["float32"]


def one(*numbers):
    return np.array([numbers], np.float64)


def test_what_is_computed_in_which_precision():
    single, half, double = (Rounding.of(name) for name in ("float32", "float16", "float64"))
    assert single == Rounding(EPS32, EPS32, ACTIVATION)
    assert half == Rounding(EPS32, EPS["float16"], ACTIVATION)
    assert double.eps == double.product_eps == EPS["float64"]
    assert double.activation == pytest.approx(ACTIVATION * EPS["float64"] / EPS32)


ROUNDING = Rounding(eps=1e-3, product_eps=1e-2, activation=1e-4)


def test_products_are_bounded_by_what_they_sum():
    x, weight = one(3, -1), np.array([[2.0, 5.0]])
    found = ROUNDING.product(weight, x, one(-0.5), one(4.0))
    size = 0.5 * (2 * 3 + 5 * 1)
    assert found.value.tolist() == [[-0.5 * (6 - 5) + 4]]
    summed, rounded = 1e-3 * 2 * np.sqrt(2) * size, 1e-2 * ROUNDINGS * size
    assert found.bound[0, 0] == pytest.approx(summed + rounded + 1e-3 * ROUNDINGS * 4)
    assert ROUNDING.product(weight, x, one(1)).value.tolist() == [[1]]


def test_sums_and_affine_maps_carry_the_bounds_of_their_parts():
    total = ROUNDING.sum(Value(one(2), one(0.1)), Value(one(-3), one(0.2)))
    assert total.value.tolist() == [[-1]]
    assert total.bound[0, 0] == pytest.approx(0.3 + ROUNDINGS * 1e-3 * 5)
    mapped = ROUNDING.affine(Value(one(2), one(0.1)), one(-3), one(1))
    assert mapped.value.tolist() == [[-5]]
    assert mapped.bound[0, 0] == pytest.approx(3 * 0.1 + ROUNDINGS * 1e-3 * 7)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_cells_and_outputs_have_the_slopes_of_their_functions():
    i, f, g, o = 0.3, -0.4, 0.5, 0.6
    gates = Value(one(i, f, g, o), one(0.04, 0.08, 0.02, 0.12))
    cell = ROUNDING.cell(gates, Value(one(-2), one(0.01)))
    kept, added = sigmoid(f) * -2, sigmoid(i) * np.tanh(g)
    assert cell.value[0, 0] == pytest.approx(kept + added)
    of_i, of_f, of_g, of_o = (b + 1e-4 for b in (0.01, 0.02, 0.02, 0.03))
    bound = of_f * 2 + (sigmoid(f) + of_f) * 0.01 + of_i + of_g
    bound += ROUNDINGS * 1e-3 * (abs(kept) + abs(added))
    assert cell.bound[0, 0] == pytest.approx(bound)
    output = ROUNDING.output(gates, Value(one(0.7), one(0.05)))
    assert output.value[0, 0] == pytest.approx(sigmoid(o) * np.tanh(0.7))
    rest = of_o + 1e-4 + ROUNDINGS * 1e-3 + 1e-2
    assert output.bound[0, 0] == pytest.approx(rest + 0.05)
    # a tanh is between -1 and 1, whatever goes into it
    far = ROUNDING.output(gates, Value(one(0.7), one(50.0)))
    assert far.bound[0, 0] == pytest.approx(rest + 2)


def test_saturated_gates_are_their_limits():
    found = ROUNDING.cell(Value(one(-1e4, 1e4, 0, 0), one(0, 0, 0, 0)), exact(one(3)))
    assert found.value.tolist() == [[3]]


def test_what_differs_is_further_away_than_the_bound():
    value = Value(one(1, 1, 1, np.nan), one(0.5, 0.5, 0, 0.5))
    other = np.array([[1.5, 1.75, np.nan, 0.0]], np.float32)
    assert value.differs(other).tolist() == [[False, True, True, False]]
    assert exact(np.array([3], np.int64)) == (np.array([3.0]), np.array([0.0]))


@pytest.mark.parametrize("seed", range(5))
def test_a_timestep_in_float32_is_within_its_bounds_and_they_are_tight(seed):
    numbers = np.random.default_rng(seed)
    H, D, S, N = 6, 5, 3, 4
    direction = FoldedDirection(
        weight_ih=numbers.standard_normal((4 * H, D)),
        weight_hh=numbers.standard_normal((4 * H, H)),
        bias=numbers.standard_normal((S, 4 * H)),
        input_scale=numbers.uniform(0.5, 2, (S, 4 * H)),
        hidden_scale=numbers.uniform(0.5, 2, (S, 4 * H)),
        cell_scale=numbers.uniform(0.5, 2, (S, H)),
        cell_shift=numbers.standard_normal((S, H)),
        rows=np.arange(S),
    )
    k = np.array([0, 1, 2, 2])
    x, h, c = (numbers.standard_normal((N, size)) for size in (D, H, H))
    step = recompute(direction, StepInputs(x, exact(h), exact(c), k), Rounding.of("float32"))

    def narrow(array):
        return array.astype(np.float32)

    gates_x = narrow(direction.input_scale)[k] * (narrow(x) @ narrow(direction.weight_ih).T)
    gates_x += narrow(direction.bias)[k]
    gates_h = narrow(direction.hidden_scale)[k] * (narrow(h) @ narrow(direction.weight_hh).T)
    i, f, g, o = np.split(gates_x + gates_h, 4, 1)
    cell = sigmoid(f) * narrow(c) + sigmoid(i) * np.tanh(g)
    affine = narrow(direction.cell_scale)[k] * cell + narrow(direction.cell_shift)[k]
    found = {
        "input_product": gates_x,
        "hidden_product": gates_h,
        "gates": gates_x + gates_h,
        "cell": cell,
        "affine": affine,
        "output": sigmoid(o) * np.tanh(affine),
    }
    for name, actual in found.items():
        expected = getattr(step, name)
        assert actual.dtype == np.float32
        assert not expected.differs(actual).any(), name
        assert expected.bound.max() < 1e-3, name
        assert expected.differs(actual + np.float32(1e-3)).any(), name
