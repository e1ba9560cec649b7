"""Every fault whose effect exceeds the float32 noise is found; a few elements are named."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from tests.models import randomize
from tests.verification.mutants import NAMED, mutants
from tests.verification.quick import check

pytestmark = pytest.mark.slow

SUFFIXES = ("_l0", "_l1")
MUTANTS = mutants(SUFFIXES)


@pytest.fixture(scope="module")
def model():
    return randomize(BNLSTM(3, 8, 2, batch_first=True, max_length=6, beta=("cell",)))


@pytest.fixture(scope="module")
def proto(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("mutants") / "m.onnx"
    export(model, path)
    assert check(model, path).passed
    return onnx.load(path)


def feeds():
    """Inputs under which every part of the graph matters."""
    generator = np.random.default_rng(0)
    state = (2, 5, 8)
    return {
        "input": generator.standard_normal((5, 14, 3)).astype(np.float32),
        "initial_h": generator.uniform(-1, 1, state).astype(np.float32),
        "initial_c": generator.standard_normal(state).astype(np.float32),
        "lengths": np.array([14, 14, 7, 0, 3]),
        "start_step": np.array([0, 3, 1, 2, 9]),
    }


def run(proto, names):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(names, feeds())


def noise(model):
    """The training model's own float32 error on those inputs."""
    values = {name: torch.from_numpy(array) for name, array in feeds().items()}
    results = []
    for dtype in (torch.float32, torch.float64):
        twin = BNLSTM(3, 8, 2, batch_first=True, max_length=6).to(dtype).eval()
        twin.load_state_dict(model.state_dict())
        state = (values["initial_h"].to(dtype), values["initial_c"].to(dtype))
        with torch.no_grad():
            output, _ = twin(
                values["input"].to(dtype),
                state,
                lengths=values["lengths"],
                step=values["start_step"],
            )
        results.append(output.double())
    return float((results[0] - results[1]).abs().max())


def test_there_are_more_than_sixty_ways():
    assert len(MUTANTS) >= 60
    assert NAMED.keys() <= MUTANTS.keys()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_with_an_effect_is_caught(name, model, proto, tmp_path, monkeypatch):
    mutant = onnx.ModelProto()
    mutant.CopyFrom(proto)
    MUTANTS[name](mutant)
    names = ["output", "h_n", "c_n"]
    try:
        pairs = zip(run(mutant, names), run(proto, names), strict=True)
        effect = max(float(np.abs(one - other).max()) for one, other in pairs)
    except Exception:  # a graph that does not even load is no silent fault
        return
    if effect <= 4 * noise(model):
        pytest.skip(f"its effect, {effect:.1e}, is within the float32 noise")
    onnx.save(mutant, tmp_path / "m.onnx")
    if name not in NAMED:  # the diagnosis takes longer than the check
        monkeypatch.setattr("bnlstm_deploy.verification.check.explain", lambda report, *_: report)
    report = check(model, tmp_path / "m.onnx")
    assert not report.passed
    if name in NAMED:
        best = report.diagnosis["hypotheses"][0]
        assert best["name"].startswith(NAMED[name]), report.diagnosis
