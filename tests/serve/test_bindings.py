"""Runs through bindings are those of the session, whatever the sizes and what is given."""

import numpy as np
import pytest

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.serve.bindings import KEPT, Bindings
from tests.models import randomize


@pytest.fixture(scope="module", params=[False, True], ids=["one direction", "two"])
def session(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("bindings") / "m.onnx"
    export(randomize(BNLSTM(3, 8, 2, max_length=4, bidirectional=request.param)), path)
    return Session(path)


def test_every_run_is_the_session_s_to_the_bit(session):
    bindings = Bindings(session)
    random = np.random.default_rng(0)
    states = [value.name for value in session.state_inputs if value.name != "lengths"]
    layers = session.signature.initial(session.run)["initial_h"].shape[0]
    for _ in range(60):
        n, t = random.integers(1, 7), random.integers(1, 5)
        feeds = {"input": random.standard_normal((t, n, 3)).astype(np.float32)}
        if random.random() < 0.5:
            feeds["lengths"] = random.integers(0, t + 1, n)
        given = {
            "initial_h": random.standard_normal((layers, n, 8)).astype(np.float32),
            "initial_c": random.standard_normal((layers, n, 8)).astype(np.float32),
            "start_step": random.integers(0, 9, n),
        }
        if random.random() < 0.7:
            some = random.random() < 0.3  # h and c, and no step
            feeds |= {k: v for k, v in given.items() if k in states and (not some or "_" in k[7:])}
        expected, found = session.run(feeds), bindings.run(feeds)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert array.shape == found[name].shape
            np.testing.assert_array_equal(found[name], array)
    assert 0 < len(bindings._bindings) <= KEPT


def test_few_are_kept(session):
    bindings = Bindings(session)
    for time in range(1, KEPT + 3):
        bindings.run({"input": np.zeros((time, 1, 3), np.float32)})
    assert [*bindings._bindings] == [(1, time) for time in range(3, KEPT + 3)]


def test_what_does_not_fit_is_refused(session):
    with pytest.raises(InputError):
        Bindings(session).run({"input": np.zeros((2, 1, 4), np.float32)})
