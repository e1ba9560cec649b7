"""Buckets: any size in a few fixed ones, with the numbers of a Session."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bnlstm_deploy.errors import InputError, RuntimeSessionError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Buckets, Session
from bnlstm_deploy.runtime.device import Device
from tests.models import randomize

CPU = ("cpu",)
CUDA_NAME = "CUDAExecutionProvider"
LENGTHS = (5, 8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One model, with dynamic time and unrolled."""
    folder = tmp_path_factory.mktemp("buckets")
    model = randomize(BNLSTM(3, 5, 2, batch_first=True, max_length=4))
    export(model, folder / "scan.onnx")
    for length in LENGTHS:
        unrolled = {"form": "unrolled", "folding": "factored", "length": length, "target": "cuda"}
        export(model, folder / f"{length}.onnx", **unrolled)
    export(randomize(BNLSTM(3, 5, 2, batch_first=True, max_length=4), 1), folder / "other.onnx")
    return folder


@pytest.fixture(scope="module")
def session(files):
    return Session(files / "scan.onnx", intra_op_num_threads=1)


def unrolled_paths(files):
    return [files / f"{length}.onnx" for length in LENGTHS]


@pytest.fixture(scope="module", params=["dynamic", "unrolled"])
def buckets(files, request):
    if request.param == "dynamic":
        return Buckets(files / "scan.onnx", lengths=LENGTHS, batches=(1, 3, 6), providers=CPU)
    return Buckets(unrolled_paths(files), batches=(1, 3, 6), providers=CPU)


def make_x(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_same(actual, expected):
    (output, state), (true_output, true_state) = actual, expected
    assert output.shape == true_output.shape
    np.testing.assert_allclose(output, true_output, atol=2e-6)
    np.testing.assert_allclose(state.h, true_state.h, atol=2e-6)
    np.testing.assert_allclose(state.c, true_state.c, atol=2e-6)
    np.testing.assert_array_equal(state.step, true_state.step)


@given(data=st.data())
def test_padding_changes_nothing(buckets, session, data):
    batch, time = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 8))
    x, state, lengths = make_x(batch, time, 3), None, None
    if data.draw(st.booleans()):
        _, state = session(make_x(batch, 3, 3, seed=1))
    if data.draw(st.booleans()):
        drawn = st.lists(st.integers(0, time), min_size=batch, max_size=batch)
        lengths = np.array(data.draw(drawn))
    actual = buckets(x, state=state, lengths=lengths)
    assert_same(actual, session(x, state=state, lengths=lengths))


@settings(max_examples=200)
@given(st.integers(1, 9), st.integers(1, 7))
def test_the_smallest_bucket_that_fits_is_taken(buckets, time, batch):
    fitting = [b for b in buckets.sizes if b.time >= time and b.batch >= batch]
    if fitting:
        bucket = buckets._choose(time, batch)
        assert bucket == min(fitting)
        assert all(bucket.time <= b.time and bucket.batch <= b.batch for b in fitting)
    else:
        with pytest.raises(InputError, match="the input has"):
            buckets._choose(time, batch)


def test_threads_get_their_own_answers(buckets, session):
    def calls(thread):
        generator = np.random.default_rng(thread)
        for _ in range(50):
            batch, time = generator.integers(1, 7), generator.integers(1, 9)
            x = generator.standard_normal((batch, time, 3)).astype(np.float32)
            assert_same(buckets(x), session(x))
        return thread

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(calls, range(8))) == list(range(8))


def test_only_so_many_bindings_are_kept(files, session):
    buckets = Buckets(
        files / "scan.onnx", lengths=(2, 4, 6, 8), batches=(1, 2), providers=CPU, max_buckets=3
    )
    buckets.warm_up()
    assert [*buckets._bindings] == [(6, 2), (8, 1), (8, 2)]
    x = make_x(2, 5, 3)
    buckets(x)
    buckets(make_x(1, 3, 3))
    assert [*buckets._bindings] == [(8, 2), (6, 2), (4, 1)]
    assert_same(buckets(make_x(1, 7, 3)), session(make_x(1, 7, 3)))
    assert len(buckets._bindings) == 3


class Mean(nn.Module):
    """Does something over time after its BNLSTM."""

    def __init__(self):
        super().__init__()
        self.rnn = BNLSTM(3, 4, max_length=4, batch_first=True)

    def forward(self, input):
        return self.rnn(input)[0].mean(1)


class Classifier(nn.Module):
    """As many classes as timesteps: its output looks like one value a timestep."""

    def __init__(self):
        super().__init__()
        self.rnn = BNLSTM(3, 4, max_length=4, batch_first=True)
        self.head = nn.Linear(4, 5)

    def forward(self, input):
        return self.head(self.rnn(input)[1][0][-1])


def export_model(model, path, **options):
    randomize(model)
    return export(model, path, inputs=(torch.zeros(2, options.get("length", 3), 3),), **options)


def test_models_that_cannot_be_padded_take_exact_lengths(tmp_path):
    assert not export_model(Mean(), tmp_path / "m.onnx").pads
    buckets = Buckets(tmp_path / "m.onnx", lengths=(4, 6), providers=CPU)
    session = Session(tmp_path / "m.onnx")
    for time in (4, 6):
        x = make_x(3, time, 3)
        np.testing.assert_allclose(buckets(x)[0], session(x)[0], atol=1e-6)
    for time in (5, 7):
        with pytest.raises(InputError, match=r"\[4, 6\]; .* exactly, as the model's outputs"):
            buckets(make_x(3, time, 3))


def test_a_single_unrolled_file_tells_time_from_axes_of_its_size(tmp_path):
    unrolled = {"form": "unrolled", "folding": "factored"}
    for length in (5, 6):
        export_model(Classifier(), tmp_path / f"{length}.onnx", length=length, **unrolled)
    session = Session(tmp_path / "5.onnx")
    assert session.metadata.time_axes == {"input": 1}  # its 5 classes are no time
    one = Buckets(tmp_path / "5.onnx", batches=(4,), providers=CPU)
    two = Buckets([tmp_path / "5.onnx", tmp_path / "6.onnx"], batches=(4,), providers=CPU)
    other = Buckets(tmp_path / "6.onnx", batches=(4,), providers=CPU)
    for time in (3, 5):
        x = make_x(3, time, 3)
        assert one(x)[0].shape == (3, 5)
        np.testing.assert_allclose(one(x)[0], other(x)[0], atol=1e-6)
        np.testing.assert_allclose(two(x)[0], other(x)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: b(make_x(2, 9, 3)), r"9 timesteps, the longest bucket 8 of \[5, 8\]"),
        (lambda b: b(make_x(7, 4, 3)), "7 streams, the largest bucket 6"),
        (lambda b: b(make_x(2, 4, 2)), r"this graph takes \(batch, time, 3\)"),
        (lambda b: b(make_x(2, 4, 3), lengths=np.array([5, 1])), "from 1 to 5; pass 0 to 4"),
    ],
)
def test_wrong_inputs_are_clear_errors(buckets, call, message):
    with pytest.raises(InputError, match=message):
        call(buckets)


def test_the_longest_of_several_buckets_is_named(files):
    buckets = Buckets(files / "scan.onnx", lengths=(3, 5, 8), providers=("cpu",))
    with pytest.raises(InputError, match=r"9 timesteps, the longest bucket 8 of \[3, 5, 8\]"):
        buckets(make_x(2, 9, 3))


@pytest.mark.parametrize(
    ("names", "options", "error", "message"),
    [
        (["scan"], {}, InputError, r"such as lengths=\(64, 128\)"),
        (["scan"], {"lengths": (0,)}, InputError, "lengths is"),
        (["5", "8"], {"lengths": (5,)}, InputError, r"fix their own: \[5, 8\]; leave it out"),
        (["scan"], {"lengths": (5,), "batches": ()}, InputError, "pass a file, and batches"),
        (["scan"], {"lengths": (5,), "batches": (0, 1)}, InputError, "pass a file, and batches"),
        (["scan"], {"lengths": (5,), "max_buckets": 0}, InputError, "max_buckets 0; pass"),
        (["5", "5"], {}, RuntimeSessionError, r"unrolled for \[5, 5\]"),
        (["5", "scan"], {}, RuntimeSessionError, r"unrolled for \[5, None\]"),
        (["scan", "other"], {"lengths": (5,)}, RuntimeSessionError, "not exports of one"),
        (["5"], {"capture": True}, RuntimeSessionError, r"pass providers=\('cuda',\)"),
        (
            ["scan"],
            {"lengths": (5,), "capture": True},
            RuntimeSessionError,
            "form scan .* for the target cpu; export for the target cuda",
        ),
        (["5"], {"providers": ("cuda",)}, RuntimeSessionError, "pip install 'bnlstm-deploy"),
    ],
)
def test_wrong_files_and_options_are_clear_errors(files, names, options, error, message):
    paths = [files / f"{name}.onnx" for name in names]
    with pytest.raises(error, match=message):
        Buckets(paths, **{"providers": CPU, **options})


@pytest.fixture
def cuda(monkeypatch):
    """ONNX Runtime with a CUDA provider whose device is the CPU; returns what was run."""
    create = ort.InferenceSession
    runs = []

    class Cuda:
        def __init__(self, path, options, *, providers, **arguments):
            self.captures = providers[0][1].get("enable_cuda_graph")
            self.session = create(path, options, providers=["CPUExecutionProvider"], **arguments)
            scans = self.session.get_modelmeta().custom_metadata_map["bnlstm.form"] == "scan"
            if self.captures and scans:
                raise RuntimeError("control flow")

        def __getattr__(self, name):
            return getattr(self.session, name)

        def get_providers(self):
            return [CUDA_NAME, "CPUExecutionProvider"]

        def run_with_iobinding(self, binding, options):
            graph = options and options.get_run_config_entry("gpu_graph_id")
            runs.append((self.captures, graph, threading.current_thread().name))
            for _ in range(3 if graph not in [run[1] for run in runs[:-1]] else 1):
                self.session.run_with_iobinding(binding, options)

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA_NAME, "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", Cuda)
    monkeypatch.setattr(Device, "of", lambda providers: Device("cpu", 0))
    return runs


def test_a_bucket_is_one_graph_and_one_thread_runs_all(files, session, cuda):
    buckets = Buckets(unrolled_paths(files), batches=(2, 4))
    assert buckets.captures
    buckets.warm_up()
    assert [run[:2] for run in cuda] == [(1, str(graph)) for graph in (1, 2, 3, 4)]
    del cuda[:]
    x = make_x(3, 4, 3)
    with ThreadPoolExecutor(4) as pool:
        for actual in pool.map(buckets, [x] * 8):
            assert_same(actual, session(x))
    _, state = session(x)
    for _ in range(2):
        assert_same(buckets(x, state=state), session(x, state=state))
    assert [graph for _, graph, _ in cuda] == ["2"] * 8 + ["5"] * 2
    assert {name for _, _, name in cuda} == {"bnlstm-graphs_0"}


def test_what_cannot_be_captured_is_not_or_is_an_error(files, cuda):
    x = make_x(2, 4, 3)
    buckets = Buckets(files / "scan.onnx", lengths=(5,))
    assert not buckets.captures
    buckets(x)
    buckets = Buckets(unrolled_paths(files), capture=False)
    assert not buckets.captures
    buckets(x)
    assert [run[:2] for run in cuda] == [(None, None)] * 2
    with pytest.raises(RuntimeSessionError, match="form scan cannot be captured"):
        Buckets(files / "scan.onnx", lengths=(5,), capture=True)
    with pytest.raises(RuntimeSessionError, match="2 lengths and 3 batches are 6 buckets"):
        Buckets(unrolled_paths(files), max_buckets=5)
