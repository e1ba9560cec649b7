"""The gradient's flow: the quadrature, and the theory where it must hold."""

import numpy as np
import pytest

from tools.study.gradient_flow import gaussian, measure, predict


@pytest.mark.parametrize("variance", [0.01, 1.0, 4.0])
def test_quadrature_is_the_mean_over_a_gaussian(variance):
    x = np.random.default_rng(0).normal(0, np.sqrt(variance), 400_000)
    assert gaussian(lambda x: x**2, variance) == pytest.approx(variance)
    found = gaussian(lambda x: np.tanh(x) ** 2, variance)
    assert found == pytest.approx((np.tanh(x) ** 2).mean(), rel=0.01)


def test_the_plain_lstms_gains_are_as_predicted():
    flow = measure((), 0.1, seed=1)
    for name in ("h_h", "h_c", "c_h", "c_c"):
        predicted = getattr(flow.predicted.factors, name)
        assert getattr(flow.measured, name) == pytest.approx(predicted, rel=0.05)
    assert flow.rate == pytest.approx(flow.predicted.rate, rel=0.03)
    assert flow.norms[0] < 1e-15 * flow.norms[-1]


def test_with_all_normalized_and_a_small_gamma_the_gradient_neither_vanishes_nor_grows():
    flow = measure(("input", "hidden", "cell"), 0.1, seed=1)
    assert flow.rate == pytest.approx(1, abs=0.05)
    assert flow.predicted.rate == pytest.approx(0.5 + (3 / 8) ** 0.5, abs=0.02)
    assert flow.measured.h_h == pytest.approx(flow.predicted.factors.h_h, rel=0.25)


def test_with_all_normalized_the_width_does_not_matter():
    narrow, wide = (predict(("input", "hidden", "cell"), 0.1, size) for size in (50, 500))
    assert narrow.rate == pytest.approx(wide.rate, rel=0.15)
