"""How far rounding and activation functions may go."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bnlstm_deploy.verification.measuring.noise import (
    ACTIVATION_ERROR,
    NoisyActivations,
    RoundedProducts,
    noisy_runs,
    sensitivity,
)


@pytest.mark.parametrize(
    "call", [torch.sigmoid, torch.tanh, torch.Tensor.sigmoid, torch.Tensor.tanh]
)
@pytest.mark.parametrize("systematic", [True, False])
def test_activations_are_off_by_their_error(call, systematic):
    x = torch.linspace(-3, 3, 1000, dtype=torch.float64)
    with NoisyActivations(0, systematic=systematic):
        first, second = call(x), call(x)
        assert torch.equal(x + 1, x + 1)
    for noisy in (first, second):
        off = (noisy - call(x)) / ACTIVATION_ERROR
        torch.testing.assert_close(off.abs(), torch.ones_like(x))
        assert 400 < (off > 0).sum() < 600
    assert torch.equal(first, second) == systematic


def test_signs_are_of_each_function_and_size():
    x = torch.zeros(200, dtype=torch.float64)
    with NoisyActivations(0, systematic=True):
        sigmoid, tanh, method = x.sigmoid() - 0.5, x.tanh(), torch.sigmoid(x) - 0.5
        short = x[:100].tanh()
    assert torch.equal(sigmoid, method)
    assert not torch.equal(sigmoid > 0, tanh > 0)
    assert not torch.equal(tanh[:100], short)
    with NoisyActivations(0, systematic=True):
        assert torch.equal(x.sigmoid() - 0.5, sigmoid)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_are_rounded_and_nothing_else(dtype):
    generator = torch.Generator().manual_seed(0)
    w, x = (torch.randn(8, 8, generator=generator) for _ in range(2))
    low = [tensor.to(dtype).float() for tensor in (w, x)]
    with RoundedProducts(dtype):
        products = [torch.matmul(w, x), w.matmul(x), F.linear(w, x.T.contiguous())]
        total = w + x
    for product in products:
        assert torch.equal(product, (low[0] @ low[1]).to(dtype).float())
    assert product.dtype == torch.float32
    assert torch.equal(total, w + x)


def noisy(features, axes, chunks=1):
    """Return what a model gives that takes the sigmoid of x, and how many streams it was run on."""
    graph = SimpleNamespace(
        signature=SimpleNamespace(batch_axes=axes),
        metadata=SimpleNamespace(layers=[SimpleNamespace(hidden_size=features)]),
        outputs=[SimpleNamespace(name="y")],
    )
    streams = []

    class Trial:
        def __init__(self, feeds):
            self.graph, self.feeds = graph, feeds

        def repeated(self, times):
            return Trial([np.concatenate([x] * times, 1) for x in self.feeds])

        def run(self, run):
            streams.append(self.feeds[0].shape[1])
            results = [run(x) for x in self.feeds]
            y = results[0] if len(results) == 1 else np.stack(results)
            return {"y": y, "h_n": results[-1][-1:]}

    trial = Trial([np.zeros((4, 2, features))] * chunks)
    found = noisy_runs(lambda x: torch.from_numpy(x).sigmoid().numpy(), trial, 0)
    return found, streams


@pytest.mark.parametrize("chunks", [1, 3])
def test_the_fewer_features_the_more_draws(chunks):
    axes = {"y": 1, "h_n": 1}
    for features, draws in ((1, 32), (8, 4), (20, 1), (100, 1)):
        found, streams = noisy(features, axes, chunks)
        assert streams == [2 * draws] * 2
        assert len(found) == 2 * draws
        for results in found:
            assert results["y"].shape == (3, 4, 2, features)[chunks == 1 :]
            assert results["h_n"].shape == (1, 2, features)
            off = np.abs(results["y"] - 0.5) / ACTIVATION_ERROR
            np.testing.assert_allclose(off, 1, rtol=1e-6)


def test_outputs_without_streams_are_drawn_once():
    _, streams = noisy(1, {"h_n": 1})
    assert streams == [2, 2]


def test_sensitivity_is_the_largest_of_all_draws_and_features():
    expected = {"y": np.zeros((2, 3)), "n": np.zeros(0)}
    draws = [
        {"y": np.array([[1.0, -4, 0], [0, 0, 0]]), "n": np.zeros(0)},
        {"y": np.array([[2.0, 0, 0], [0, 0, -3]]), "n": np.zeros(0)},
    ]
    moved = sensitivity(draws, expected)
    np.testing.assert_array_equal(moved["y"], [[4, 4, 4], [3, 3, 3]])
    assert sensitivity([], expected)["y"].tolist() == [[0, 0, 0], [0, 0, 0]]
