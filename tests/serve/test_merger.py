"""Merging requests: what is cut apart again keeps nothing else alive."""

import numpy as np
import pytest

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.serve.merger import Merger, Size
from tests.models import randomize


@pytest.fixture(scope="module")
def merger(tmp_path_factory):
    path = tmp_path_factory.mktemp("merge") / "m.onnx"
    export(randomize(BNLSTM(3, 4, max_length=2, learn_initial_state=True)), path)
    return Merger(Session(path))


def test_the_results_of_a_request_are_copies(merger):
    requests = [{"input": np.ones((t, n, 3), np.float32)} for t, n in ((4, 1), (2, 2))]
    sizes = [merger.size(request) for request in requests]
    assert sizes == [Size(1, 4), Size(2, 2)]
    results = merger.session.run(merger.merge(requests))
    parts = merger.split(results, sizes)
    assert [part["output"].shape for part in parts] == [(4, 1, 4), (2, 2, 4)]
    for part in parts:
        for name, array in part.items():
            assert array.base is None
            assert not np.shares_memory(array, results[name])


def test_requests_together_give_what_each_gives_alone(merger):
    numbers = np.random.default_rng(0)
    alone = [{"input": numbers.standard_normal((t, 2, 3)).astype(np.float32)} for t in (5, 3)]
    state = merger.session.run(alone[0])
    alone[1] |= {"initial_h": state["h_n"], "initial_c": state["c_n"]}
    together = merger.session.run(merger.merge(alone))
    parts = merger.split(together, [merger.size(request) for request in alone])
    for request, part in zip(alone, parts, strict=True):
        for name, expected in merger.session.run(request).items():
            np.testing.assert_allclose(part[name], expected, atol=1e-6)
