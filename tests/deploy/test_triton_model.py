"""The model for Triton's Python backend, called as the backend calls it."""

import importlib.util
import json
import sys
import types

import numpy as np
import pytest
from google.protobuf import json_format

from bnlstm_deploy.exporting import export
from bnlstm_deploy.native import library_path
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session
from tests.deploy.commands import deploy
from tests.deploy.driver import read_config
from tests.models import randomize


class Tensor:
    def __init__(self, name, array):
        self.name = name
        self.array = array

    def as_numpy(self):
        return self.array


class Response:
    def __init__(self, tensors=(), error=None):
        self.outputs = {tensor.name: tensor.array for tensor in tensors}
        self.error = error


class Request:
    """One request, with the controls that the sequence batcher adds."""

    def __init__(self, sequence=None, *, start=False, end=False, ready=True, **inputs):
        self.sequence = sequence
        controls = {"START": start, "END": end, "READY": ready}
        self.inputs = inputs | {name: np.array([[on]]) for name, on in controls.items()}

    def correlation_id(self):
        return self.sequence


@pytest.fixture
def load(monkeypatch):
    """Load the model of a repository's folder from its own file."""
    utils = types.ModuleType("triton_python_backend_utils")
    utils.Tensor = Tensor
    utils.InferenceResponse = Response
    utils.TritonError = str
    utils.TritonModelException = RuntimeError
    utils.get_input_tensor_by_name = lambda request, name: Tensor(name, request.inputs[name])
    monkeypatch.setitem(sys.modules, utils.__name__, utils)

    def load(folder, kind="CPU"):
        spec = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        config = json_format.MessageToJson(read_config(folder), preserving_proto_field_name=True)
        arguments = {"model_config": config, "model_instance_kind": kind}
        model.initialize(arguments | {"model_instance_device_id": "0"})
        return model

    return load


@pytest.fixture
def streaming(exported, tmp_path, load):
    """The model of layers.onnx, which holds two streams."""
    options = ("--backend", "python", "--max-sequences", "2", "--max-batch", "8")
    return load(deploy(exported / "layers.onnx", tmp_path / "r", *options))


def chunk(time, seed=0):
    return np.random.default_rng(seed).standard_normal((1, time, 3)).astype(np.float32)


def test_chunks_of_any_length_and_step_are_one_run(streaming, exported, monkeypatch):
    session = Session(exported / "layers.onnx")
    streaming.execute([Request("a", start=True, input=chunk(3))])
    runs = []
    compute = streaming._compute
    monkeypatch.setattr(streaming, "_compute", lambda feeds: runs.append(feeds) or compute(feeds))
    requests = [
        Request("a", end=True, input=chunk(5, 1)),
        Request(ready=False, input=chunk(5)),
        Request(7, start=True, input=chunk(2, 2)),
    ]
    first, idle, second = streaming.execute(requests)
    assert len(runs) == 1
    assert runs[0]["start_step"].tolist() == [3, 0]
    assert runs[0]["lengths"].tolist() == [5, 2]
    assert not idle.outputs
    whole = np.concatenate([chunk(3), chunk(5, 1)], axis=1).swapaxes(0, 1)
    expected = session(whole)[0].swapaxes(0, 1)
    np.testing.assert_allclose(first.outputs["output"], expected[:, 3:], atol=1e-6)
    expected = session(chunk(2, 2).swapaxes(0, 1))[0].swapaxes(0, 1)
    np.testing.assert_allclose(second.outputs["output"], expected, atol=1e-6)
    assert list(streaming.states) == [7]  # the other has ended


def test_no_more_streams_are_held_than_triton_has_slots_for(streaming):
    for name in ("a", "b"):
        streaming.execute([Request(name, start=True, input=chunk(1))])
    streaming.execute([Request("a", input=chunk(1))])
    streaming.execute([Request("c", start=True, input=chunk(1))])
    assert list(streaming.states) == ["a", "c"]
    lost, kept = streaming.execute([Request(n, input=chunk(1)) for n in ("b", "c")])
    assert "sequence b is not held" in lost.error
    assert kept.error is None
    streaming.execute([Request("a", start=True, input=chunk(1))])
    assert streaming.states["a"]["start_step"].tolist() == [1]


def test_a_run_that_fails_leaves_states_and_other_runs_alone(streaming):
    streaming.execute([Request("a", start=True, input=chunk(2))])
    bad, good = streaming.execute(
        [
            Request("b", start=True, input=chunk(2)[..., :2]),
            Request("a", input=chunk(2)),
        ]
    )
    assert "ONNX Runtime failed" in bad.error
    assert good.error is None
    assert streaming.states["a"]["start_step"].tolist() == [4]


def test_a_stream_begun_again_takes_no_other_streams_place(streaming):
    for name in ("b", "a"):
        streaming.execute([Request(name, start=True, input=chunk(1))])
    streaming.execute([Request("a", start=True, input=chunk(1))])
    assert list(streaming.states) == ["b", "a"]


def test_a_stream_whose_last_run_fails_has_ended(streaming):
    for name in ("a", "b"):
        streaming.execute([Request(name, start=True, input=chunk(1))])
    (bad,) = streaming.execute([Request("b", end=True, input=chunk(1)[..., :2])])
    assert "ONNX Runtime failed" in bad.error
    streaming.execute([Request("c", start=True, input=chunk(1))])
    assert list(streaming.states) == ["a", "c"]


def test_whole_sequences_are_padded_or_kept_apart(exported, tmp_path, load, monkeypatch):
    import torch

    class Mean(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = BNLSTM(3, 4, batch_first=True, max_length=5)

        def forward(self, input):
            return self.rnn(input)[0].mean(1)

    export(randomize(Mean()), tmp_path / "mean.onnx", inputs=(torch.zeros(2, 2, 3),))
    options = ("--backend", "python", "--no-sequence")
    for path, runs in ((exported / "directions.onnx", 1), (tmp_path / "mean.onnx", 2)):
        folder = deploy(path, tmp_path / "r", *options)
        (value,) = read_config(folder).input
        assert value.allow_ragged_batch is (runs == 1)
        model = load(folder)
        seen = []
        compute = model._compute
        monkeypatch.setattr(model, "_compute", lambda f, s=seen, c=compute: s.append(f) or c(f))
        x = [np.repeat(chunk(5), 2, axis=0), chunk(3, 1)]
        responses = model.execute([Request(input=array) for array in x])
        assert len(seen) == runs
        for array, response in zip(x, responses, strict=True):
            expected, state = Session(path)(array)
            np.testing.assert_allclose(response.outputs["output"], expected, atol=1e-6)
            h = np.moveaxis(state.h, 1, 0)
            np.testing.assert_allclose(response.outputs["h_n"], h, atol=1e-6)


def test_the_native_kernel_is_beside_the_model_and_runs(exported, tmp_path, load):
    x = np.repeat(chunk(30), 3, axis=0)
    x[1:] *= [[[2]], [[3]]]
    kernel = Session(exported / "layers.onnx")(x.swapaxes(0, 1))[0].swapaxes(0, 1)
    for native in (True, False):
        options = ("--backend", "python", *(() if native else ("--no-native",)))
        written = deploy(exported / "layers.onnx", tmp_path / str(native), *options)
        (tmp_path / f"elsewhere {native}").mkdir()
        folder = tmp_path / f"elsewhere {native}" / "layers"
        written.rename(folder)  # as into a container
        model = load(folder)
        requests = [Request(i, start=True, end=True, input=x[i : i + 1]) for i in range(3)]
        results = [response.outputs["output"] for response in model.execute(requests)]
        assert np.array_equal(np.concatenate(results), kernel) is native
        np.testing.assert_allclose(np.concatenate(results), kernel, atol=1e-6)
        assert (folder / "1" / library_path().name).exists() is native


def test_a_damaged_native_kernel_is_an_error(exported, tmp_path, load):
    folder = deploy(exported / "layers.onnx", tmp_path / "r", *("--backend", "python"))
    (folder / "1" / library_path().name).write_text("no library")
    with pytest.raises(Exception, match=library_path().name):  # onnxruntime's own kind
        load(folder)


def test_a_gpu_that_is_not_there_is_an_error(exported, tmp_path, load):
    folder = deploy(
        exported / "layers.onnx", tmp_path / "r", *("--backend", "python", "--no-native")
    )
    facts = json.loads(read_config(folder).parameters["bnlstm"].string_value)
    assert facts["warm_up"] == [1, 64]
    with pytest.warns(UserWarning, match="CUDA"), pytest.raises(RuntimeError, match="CUDA"):
        load(folder, kind="GPU")
    native = deploy(exported / "layers.onnx", tmp_path / "native", *("--backend", "python"))
    with pytest.raises(Exception, match="BNLSTM: the CUDA driver"):  # onnxruntime's own kind
        load(native, kind="GPU")
