"""The check of float16 graphs, and of bfloat16 ones, which a CPU emulates."""

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.verification import verify
from bnlstm_deploy.verification.measuring.emulate import emulated
from tests.models import randomize
from tests.verification.mutants import set_array, times
from tests.verification.quick import check

FORMS = [{}, {"form": "unrolled", "length": 6, "folding": "materialized"}]


@pytest.fixture(scope="module")
def model():
    return randomize(BNLSTMModel(BNLSTM(3, 16, 2, batch_first=True, max_length=5), 4))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("arguments", FORMS)
def test_correct_exports_pass_and_wrong_ones_do_not(dtype, arguments, model, tmp_path):
    path = tmp_path / "m.onnx"
    export(model, path, dtype=dtype, **arguments)
    report = check(model, path)
    assert report.passed, report.failures
    assert report.ratio < 2
    emulates = dtype == torch.bfloat16
    assert ("bfloat16 emulated" in report.environment["providers"]) == emulates
    proto = onnx.load(path)
    set_array("cell_scale_l0", times(1.5))(proto)
    onnx.save(proto, path)
    report = check(model, path)
    assert not report.passed
    assert report.diagnosis["origin"]["intermediate"] == "affine"
    assert "precision" in {stage.name for stage in report.stages if not stage.passed}


@pytest.mark.parametrize("arguments", FORMS)
def test_the_emulation_is_what_the_reference_evaluator_computes(arguments, model, tmp_path):
    export(model, tmp_path / "m.onnx", dtype=torch.bfloat16, **arguments)
    proto = onnx.load(tmp_path / "m.onnx")
    copy = emulated(proto)
    onnx.checker.check_model(copy, full_check=True)
    onnx.save(copy, tmp_path / "e.onnx")
    x = np.random.default_rng(0).standard_normal((2, 6, 3)).astype(np.float32)
    session = Session(tmp_path / "e.onnx", native=False)  # which rounds in its body
    actual = session.run({"input": x})
    names = list(actual)
    truth = dict(zip(names, ReferenceEvaluator(proto).run(names, {"input": x}), strict=True))
    np.testing.assert_array_equal(actual["h_n"], truth["h_n"])
    np.testing.assert_allclose(actual["c_n"], truth["c_n"], atol=1e-6)
    # its Gemm rounds before it adds the bias, too
    np.testing.assert_allclose(actual["output"], truth["output"], rtol=2**-6, atol=2**-8)
    for name in ("output", "h_n"):
        assert not (actual[name].view(np.uint32) & 0xFFFF).any()


def test_bfloat16_on_the_cpu_is_an_error_outside_the_check(model, tmp_path):
    export(model, tmp_path / "m.onnx", dtype=torch.bfloat16)
    with pytest.raises(RuntimeSessionError, match="NOT_IMPLEMENTED"):
        Session(tmp_path / "m.onnx")
    with pytest.raises(RuntimeSessionError, match="one provider at a time"):
        verify(model, tmp_path / "m.onnx", providers=("cpu", "cuda"))
