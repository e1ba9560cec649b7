"""Statistics as scale and shift, and the errors of statistics that cannot be folded."""

import numpy as np
import pytest
import torch
from torch import nn

from bnlstm_deploy.errors import FoldError
from bnlstm_deploy.folding import affine

MEAN = np.array([[0.5, -1.0], [2.0, 0.0]])
VAR = np.array([[1.0, 4.0], [0.0, 0.25]])


def test_it_is_torch_batch_norm_in_evaluation():
    generator = np.random.default_rng(0)
    mean, var = generator.standard_normal((1, 3)), generator.uniform(0, 2, (1, 3))
    norm = nn.BatchNorm1d(3, eps=1e-3, dtype=torch.float64).eval()
    gamma, beta = generator.standard_normal(3), generator.standard_normal(3)
    norm.load_state_dict(
        {
            "weight": torch.from_numpy(gamma),
            "bias": torch.from_numpy(beta),
            "running_mean": torch.from_numpy(mean[0]),
            "running_var": torch.from_numpy(var[0]),
            "num_batches_tracked": torch.tensor(1),
        }
    )
    x = generator.standard_normal((5, 3))
    scale, shift = affine(mean, var, 1e-3, gamma, beta)
    expected = norm(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(scale[0] * x + shift[0], expected, rtol=1e-13)


def test_steps_may_come_one_by_one():
    by_step = affine(dict(enumerate(MEAN)), {1: VAR[1], 0: VAR[0]}, 1e-5)
    stacked = affine(MEAN, VAR, 1e-5)
    np.testing.assert_array_equal(by_step.scale, stacked.scale)
    np.testing.assert_array_equal(by_step.shift, stacked.shift)


def test_float32_statistics_are_folded_in_float64():
    scale, _ = affine(MEAN.astype(np.float32), VAR.astype(np.float32), 1e-5)
    assert scale.dtype == np.float64
    np.testing.assert_array_equal(scale, 1 / np.sqrt(VAR + 1e-5))


def test_gamma_may_differ_by_step():
    gamma = np.array([[1.0, 2.0], [3.0, 4.0]])
    scale, _ = affine(MEAN, VAR, 1e-5, gamma)
    np.testing.assert_allclose(scale, gamma / np.sqrt(VAR + 1e-5))


def broken(array, value):
    array = array.copy()
    array[1, 0] = value
    return array


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((MEAN, broken(VAR, -1e-3), 1e-5), "variance of step 1, feature 0 is -0.001"),
        ((MEAN, broken(VAR, np.nan), 1e-5), "variance holds nan at index \\(1, 0\\)"),
        ((broken(MEAN, np.inf), VAR, 1e-5), "mean holds inf"),
        ((MEAN, VAR, 0.0), "not positive everywhere"),
        ((MEAN, VAR, np.nan), "not positive everywhere"),
        ((MEAN[:1], VAR, 1e-5), "shape \\(1, 2\\), the variances \\(2, 2\\)"),
        ((MEAN[0], VAR[0], 1e-5), "pass \\(steps, features\\)"),
        ((MEAN[:0], VAR[:0], 1e-5), "pass \\(steps, features\\)"),
        (({0: MEAN[0], 2: MEAN[1]}, VAR, 1e-5), "steps \\[1\\] are missing"),
        (({}, VAR, 1e-5), "steps \\[0\\] are missing"),
        (({0: MEAN[0], 1: MEAN[1, :1]}, VAR, 1e-5), "differ in shape"),
        ((MEAN, VAR, 1e-5, np.ones(3)), "gamma has shape \\(3,\\)"),
        ((MEAN, VAR, 1e-5, None, np.array([0.0, np.nan])), "beta holds nan"),
    ],
)
def test_errors_name_the_place_and_the_value(arguments, message):
    with pytest.raises(FoldError, match=message):
        affine(*arguments)
