"""export(inline=True): files without functions, and what other engines and tools make of them."""

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime as ort
import onnxslim  # type: ignore[import-untyped]
import openvino  # type: ignore[import-untyped]
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from bnlstm_deploy.errors import VerificationError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.verification.diagnosis import diagnose
from tests.models import randomize
from tests.verification.mutants import set_array, times
from tests.verification.quick import check

X = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
OPTIONAL = ["initial_h", "initial_c", "lengths", "start_step"]
CLOSE = 1e-6

FILES = {
    "unrolled": ({}, {"form": "unrolled", "length": 5}),
    "lstm": ({"normalize": ("input",), "shared_statistics": ("input",)}, {}),
    "scan": ({}, {}),
}


@pytest.fixture(scope="module", params=FILES)
def file(request, tmp_path_factory):
    """Return a path, the form, and what the model gives for X."""
    arguments, options = FILES[request.param]
    model = randomize(BNLSTM(3, 4, max_length=3, **arguments))
    path = tmp_path_factory.mktemp("inline") / "m.onnx"
    assert export(model, path, inline=True, **options).form == request.param
    with torch.no_grad():
        return path, request.param, model(torch.from_numpy(X))[0].numpy()


def runs(path):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    optional = [value.name for value in session.get_overridable_initializers()]
    return session.run(None, {"input": X})[0], optional


def test_there_are_standard_operators_alone(file):
    proto = onnx.load(file[0])
    onnx.checker.check_model(proto, full_check=True)
    assert not proto.functions
    assert [entry.domain for entry in proto.opset_import] == [""]
    session = Session(file[0])
    assert session.metadata.inlined
    assert not session.native
    assert "inlined" in session.native.reason
    output, state = session(X)
    np.testing.assert_allclose(output, file[2], atol=CLOSE)
    assert state.step.tolist() == [5, 5]


def test_the_reference_evaluator_agrees(file):
    (output, *_) = ReferenceEvaluator(onnx.load(file[0])).run(None, {"input": X})
    np.testing.assert_allclose(output, file[2], atol=CLOSE)


def test_openvino_takes_all_but_scan(file):
    path, form, expected = file
    if form == "scan":
        with pytest.raises(RuntimeError, match="OpConversionFailure"):
            openvino.Core().compile_model(path, "CPU")
        return
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(model([X])[0], expected, atol=CLOSE)
    assert len(model.inputs) == 1  # the optional ones are constants


def test_onnxslim_keeps_the_numbers_and_freezes_optional_inputs(file, tmp_path):
    path, _, expected = file
    onnx.save(onnxslim.slim(str(path)), tmp_path / "slim.onnx")
    output, optional = runs(tmp_path / "slim.onnx")
    np.testing.assert_allclose(output, expected, atol=CLOSE)
    assert optional == []


@pytest.mark.parametrize("opset", [18, 22])
def test_the_version_converter_keeps_all(file, opset, tmp_path):
    path, _, expected = file
    converted = onnx.version_converter.convert_version(onnx.load(path), opset)
    onnx.save(converted, tmp_path / "converted.onnx")
    output, optional = runs(tmp_path / "converted.onnx")
    np.testing.assert_allclose(output, expected, atol=CLOSE)
    assert optional == OPTIONAL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ({"num_layers": 2, "bidirectional": True}, {}),
        ({"num_layers": 2}, {"form": "unrolled", "length": 4}),
        ({}, {"folding": "materialized"}),
        ({}, {"dtype": torch.float16}),
    ],
    ids=str,
)
def test_they_are_verified_like_others(arguments, options, tmp_path):
    model = randomize(BNLSTMModel(BNLSTM(3, 4, max_length=3, **arguments), 2))
    path = tmp_path / "m.onnx"
    export(model, path, inline=True, **options)
    report = check(model, path, native=True)
    assert report.passed, report.failures[:3]
    (structure,) = (stage for stage in report.stages if stage.name == "structure")
    assert structure.passed
    assert report.no_native
    proto = onnx.load(path)
    set_array("bias_l0", times(1.01))(proto)
    onnx.save(proto, path)
    report = check(model, path)
    assert not report.passed
    assert any("rnn.bias_l0" in finding.detail for finding in report.structure if not finding.ok)


def test_a_diagnosis_asks_for_the_file_with_functions(file):
    model = randomize(BNLSTM(3, 4, max_length=3, **FILES[file[1]][0]))
    session = Session(file[0])
    with pytest.raises(VerificationError, match="exported without inline"):
        diagnose(model, file[0], {"input": X}, run=session.run, tolerance={"output": 1e-9})
