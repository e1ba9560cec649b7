"""The native kernel on whatever ONNX Runtime is installed: `make test-native-oldest`."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from bnlstm_deploy.npz import read_npz
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.runtime.kernel import choosing, instruction_sets

FILE = Path(__file__).parents[1] / "version_0_1_0.onnx"


def test_there_is_a_kernel():
    print("ONNX Runtime", ort.__version__, "with", instruction_sets())
    assert instruction_sets()


@pytest.mark.parametrize("instruction_set", instruction_sets())
@pytest.mark.parametrize("threads", [1, 2])
def test_numbers(instruction_set, threads):
    recorded = read_npz(FILE.with_suffix(".npz"))
    with choosing(instruction_set):
        session = Session(FILE, intra_op_num_threads=threads)
    assert session.native.instruction_set == instruction_set
    feeds = {name: recorded[name] for name in recorded if "/" not in name}
    for name, result in session.run(feeds).items():
        truth, single = recorded[f"truth/{name}"], recorded[f"float32/{name}"]
        own = np.abs(single - truth).max()
        assert np.abs(result - truth).max() <= 4 * own + (result.dtype == np.float32) * 1e-8


def test_a_wrong_shape_is_an_error():
    recorded = read_npz(FILE.with_suffix(".npz"))
    session = Session(FILE)
    feeds = {name: recorded[name] for name in recorded if "/" not in name}
    wrong = {"all.initial_h": np.zeros((1, 9, 17), np.float32)}
    with pytest.raises(Exception, match="BNLSTM: initial_h has the shape"):
        session.raw.run(None, feeds | wrong)
