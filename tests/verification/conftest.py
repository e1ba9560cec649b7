"""What several tests of the check share."""

import hashlib

import numpy as np
import onnx
import pytest
import torch

from bnlstm_deploy.exporting import export
from bnlstm_deploy.exporting.export import approximation_of
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.verification.measuring.references import References
from tests.models import randomize


@pytest.fixture(scope="session")
def model():
    rnn = BNLSTM(3, 8, 2, batch_first=True, max_length=6)
    return randomize(BNLSTMModel(rnn, 4, pooling="every"))


@pytest.fixture(scope="session")
def proto(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("verify") / "m.onnx"
    export(model, path)
    return onnx.load(path)


PLAIN = (bool, int, float, str, tuple, dict, type(None))


@pytest.fixture(scope="session", autouse=True)
def _known_references():
    """Run a training model once on what many checks draw for it: most of their time is that."""
    known, make = {}, References.make

    def remembered(references, trials):
        key = _digest(
            *_of_model(references.truth.lifted),
            *_of_model(references.target.lifted),
            *(references.metadata.dtype, *approximation_of(references.metadata)),
            *(references.truth.inputs, references.truth.outputs, references.truth.state_outputs),
            *(references._seed, references._signature),
            *(part for trial, jitters in trials for part in (trial.case, trial.lengths, jitters)),
            *(part for trial, _ in trials for feeds in trial.feeds for part in feeds.items()),
        )
        if key not in known:
            known[key] = list(make(references, trials).values())
        return dict(zip((trial for trial, _ in trials), known[key], strict=True))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(References, "make", remembered)
        yield


def _of_model(model):
    for name, module in model.named_modules():
        plain = {k: v for k, v in vars(module).items() if isinstance(v, PLAIN) and k[0] != "_"}
        yield name, id(type(module)), plain
    yield from model.state_dict().items()


def _digest(*parts):
    digest = hashlib.sha256()
    for part in parts:
        name, value = part if isinstance(part, tuple) and len(part) == 2 else ("", part)
        array = np.asarray(value) if isinstance(value, torch.Tensor | np.ndarray) else None
        said = (name, value) if array is None else (name, array.dtype.str, array.shape)
        digest.update(repr(said).encode())
        digest.update(b"" if array is None else array.tobytes())
    return digest.digest()
