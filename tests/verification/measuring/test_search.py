"""search(): what it finds amplifies rounding more than what it started from."""

import math

import numpy as np
import pytest
import torch

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.verification.measuring.search import _amplification, search
from bnlstm_deploy.verification.measuring.trial import TorchModel
from tests.models import randomize


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    path = tmp_path_factory.mktemp("search") / "m.onnx"
    model = randomize(BNLSTM(3, 8, max_length=4))
    export(model, path)
    session = Session(path, native=False)
    return TorchModel(model, session, torch.float64)


def amplification(truth, feeds):
    tensors = {name: torch.from_numpy(array).double() for name, array in feeds.items()}
    return _amplification(truth, feeds, tensors, 0).item()


def test_it_ascends(truth):
    numbers = np.random.default_rng(0)
    start = {"input": numbers.standard_normal((5, 4, 3)).astype(np.float32)}
    found = search(truth, lambda: start, lambda feeds: 0.0, 2.0, 0)
    assert found.tried > 2
    assert amplification(truth, found.amplified) > amplification(truth, start) + math.log(1.05)
    low, high = start["input"].min(), start["input"].max()
    assert ((low <= found.amplified["input"]) & (found.amplified["input"] <= high)).all()


def test_the_worst_is_what_the_graph_errs_on_most(truth):
    numbers = np.random.default_rng(0)
    errors = []

    def error(feeds):
        errors.append((float(numbers.random()), feeds))
        return errors[-1][0]

    start = {"input": numbers.standard_normal((5, 2, 3)).astype(np.float32)}
    found = search(truth, lambda: start, error, 0.5, 0)
    assert found.worst is max(errors, key=lambda pair: pair[0])[1]
    assert found.tried == len(errors)
