"""export(state="required"): what is optional elsewhere is an ordinary input, for other tools."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import onnxslim  # type: ignore[import-untyped]
import pytest
import torch

from bnlstm_deploy.deploy.interface import describe
from bnlstm_deploy.errors import ExportError, InputError, RuntimeSessionError, VerificationError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.metadata import NO_LENGTH, Metadata
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Buckets, Session
from bnlstm_deploy.serve.engine import Engine
from tests.models import randomize
from tests.verification.quick import check

X = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
STATES = ["initial_h", "initial_c", "lengths", "start_step"]


@pytest.fixture(scope="module")
def model():
    return randomize(BNLSTM(3, 4, max_length=3))


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """Return a file whose states are optional, and one whose are required."""
    folder = tmp_path_factory.mktemp("required")
    paths = folder / "optional.onnx", folder / "required.onnx"
    for path, state in zip(paths, ("optional", "required"), strict=True):
        assert export(model, path, state=state).state == state
    return paths


def test_all_inputs_are_ordinary_ones(files):
    raw = ort.InferenceSession(files[1], providers=["CPUExecutionProvider"])
    assert [value.name for value in raw.get_inputs()] == ["input", *STATES]
    assert raw.get_overridable_initializers() == []
    zeros = np.zeros((1, 1, 4), np.float32)
    feeds = {"initial_h": zeros, "initial_c": zeros}
    feeds |= {"lengths": np.array([NO_LENGTH]), "start_step": np.array([0])}
    expected, _ = Session(files[0], native=False)(X)
    np.testing.assert_array_equal(raw.run(["output"], {"input": X, **feeds})[0], expected)


def test_a_session_passes_what_is_left_out(files):
    optional, required = map(Session, files)
    assert [value.name for value in required.inputs] == ["input"]
    assert [value.name for value in required.state_inputs] == STATES
    lengths = np.array([4, 2])
    for session in (optional, required):
        assert session.native or session.native.reason
    (y, state), (expected, left) = required(X, lengths=lengths), optional(X, lengths=lengths)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(state.c, left.c)
    np.testing.assert_array_equal(required(X, state=state)[0], optional(X, state=left)[0])


def test_a_binding_and_buckets_do_so_too(files):
    optional, required = map(Session, files)
    for bound in (required.bind(2, 5), optional.bind(2, 5)):
        first, second = bound(X), bound(X)
        expected, state = optional(X)
        np.testing.assert_array_equal(first, expected)
        np.testing.assert_array_equal(second, optional(X, state=state)[0])
    buckets = Buckets(files[1], batches=(4,), lengths=(8,), providers=("cpu",))
    np.testing.assert_allclose(buckets(X)[0], optional(X)[0], rtol=1e-6)


def test_a_server_takes_requests_without_states(files):
    engine = Engine(files[1])
    assert set(STATES) <= engine.optional


def test_the_check_passes_and_holds_the_file_to_what_it_says(model, files, tmp_path):
    assert check(model, files[1]).passed
    proto = onnx.load(files[1])
    for entry in proto.metadata_props:
        if entry.key == "bnlstm.state":
            entry.value = "optional"
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(VerificationError, match="the input 'initial_h'"):
        check(model, tmp_path / "other.onnx")


def test_onnxslim_keeps_the_inputs(model, files, tmp_path):
    export(model, tmp_path / "inlined.onnx", inline=True, state="required")
    onnx.save(onnxslim.slim(str(tmp_path / "inlined.onnx")), tmp_path / "slim.onnx")
    slim = ort.InferenceSession(tmp_path / "slim.onnx", providers=["CPUExecutionProvider"])
    assert [value.name for value in slim.get_inputs()] == ["input", *STATES]


def test_a_learned_initial_state_stays_optional(tmp_path):
    model = randomize(BNLSTM(3, 4, max_length=3, learn_initial_state=True))
    with pytest.raises(ExportError, match="'initial_h' is what the model learned"):
        export(model, tmp_path / "m.onnx", state="required")
    assert not (tmp_path / "m.onnx").exists()


def test_another_word_is_refused(model, tmp_path):
    with pytest.raises(ExportError, match="state is 'needed'; pass optional or required"):
        export(model, tmp_path / "m.onnx", state="needed")


def test_metadata_of_another_word_are_refused(files):
    metadata = replace(Session(files[1]).metadata, state="needed")
    with pytest.raises(RuntimeSessionError, match=r"bnlstm\.state is 'needed'"):
        Metadata.from_properties(metadata.to_properties())


def test_triton_is_for_files_whose_states_are_optional(files):
    with pytest.raises(InputError, match="requires its states"):
        describe(Session(files[1]), sequence=True, lengths=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes(model, dtype, tmp_path):
    export(model, tmp_path / "m.onnx", dtype=dtype, state="required")
    assert check(model, tmp_path / "m.onnx").passed
