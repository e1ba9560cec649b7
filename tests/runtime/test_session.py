"""Session: calls, carried states, and the errors of wrong inputs, files and providers."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bnlstm_deploy.errors import InputError, RuntimeSessionError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session, State
from tests.models import randomize


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    model = randomize(BNLSTM(3, 5, 2, batch_first=True, max_length=4))
    path = tmp_path_factory.mktemp("session") / "m.onnx"
    export(model, path)
    return path


@pytest.fixture(scope="module")
def session(path):
    return Session(path, intra_op_num_threads=1)


def make_x(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_streams_continue_from_chunk_to_chunk(session):
    x = make_x(4, 9, 3)
    whole, end = session(x)
    state, parts = None, []
    for chunk in np.split(x, [2, 3, 7], axis=1):
        output, state = session(chunk, state=state)
        parts.append(output)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    np.testing.assert_array_equal(state.h, end.h)
    np.testing.assert_array_equal(state.c, end.c)
    assert state.step.tolist() == end.step.tolist() == [9] * 4


def test_streams_at_different_steps_share_a_batch(session):
    x = make_x(2, 6, 3)
    alone = [session(x[n : n + 1])[0] for n in (0, 1)]
    _, first = session(x[:1, :4])
    _, second = session(x[1:, :1])
    mixed = State(
        *(np.concatenate([getattr(s, part) for s in (first, second)], axis=1) for part in "hc"),
        np.concatenate([first.step, second.step]),
    )
    chunk = np.zeros((2, 5, 3), np.float32)
    chunk[0, :2], chunk[1] = x[0, 4:], x[1, 1:]
    output, state = session(chunk, state=mixed, lengths=np.array([2, 5]))
    np.testing.assert_allclose(output[0, :2], alone[0][0, 4:], atol=1e-6)
    np.testing.assert_allclose(output[1], alone[1][0, 1:], atol=1e-6)
    assert not output[0, 2:].any()
    assert state.step.tolist() == [6, 6]


def test_threads_share_a_session(session):
    inputs = [make_x(2, 3 + n, 3) for n in range(8)]
    expected = [session(x)[0] for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for actual, truth in zip(pool.map(lambda x: session(x)[0], inputs), expected, strict=True):
            np.testing.assert_array_equal(actual, truth)


def state(h=(2, 4, 5), c=(2, 4, 5), step=(4,), dtype=np.float32):
    return State(np.zeros(h, dtype), np.zeros(c, dtype), np.zeros(step, np.int64))


X = make_x(4, 6, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s(), "0 inputs given; this model takes \\['input'\\]"),
        (lambda s: s(X.tolist()), "is a list; pass a numpy array"),
        (lambda s: s(X[0]), "takes 3 axes \\(batch, time, 3\\)"),
        (lambda s: s(X.astype(np.float64)), "float64, the graph takes float32"),
        (lambda s: s(X[..., :2]), "takes \\(batch, time, 3\\)"),
        (lambda s: s(X[:, :0]), "at least one element"),
        (lambda s: s(X, lengths=np.array([7, 1, 1, 1])), "from 1 to 7; pass 0 to 6"),
        (lambda s: s(X, lengths=np.array([-1, 1, 1, 1])), "from -1 to 1"),
        (lambda s: s(X, lengths=np.array([1, 1])), "'lengths' is for 2 streams, 'input' for 4"),
        (lambda s: s(X, lengths=np.array([1.0] * 4)), "float64, the graph takes int64"),
        (lambda s: s(X, state=state(h=(2, 3, 5))), "'initial_h' is for 3 streams"),
        (lambda s: s(X, state=state(c=(2, 4, 6))), "'initial_c' has shape \\(2, 4, 6\\)"),
        (lambda s: s(X, state=state(step=(3,))), "'start_step' is for 3 streams"),
        (lambda s: s(X, state=state(dtype=np.float64)), "'initial_h' is float64"),
        (lambda s: s(X, state=(state().h, state().c)), "a tuple; pass the State that the call"),
        (lambda s: s(X, state={"rnn": state()}), "state is given for \\['rnn'\\]"),
        (lambda s: s.run({"input": X, "start_step": np.full(4, -1)}), "from -1 to -1; pass 0 to"),
        (lambda s: s.run({"input": X, "initial_h": state().h}), "without 'initial_c'"),
        (lambda s: s.run({"x": X}), "lack \\['input'\\] and have the unknown names \\['x'\\]"),
    ],
)
def test_wrong_inputs_are_clear_errors(session, call, message):
    with pytest.raises(InputError, match=message):
        call(session)


def test_two_directions_have_no_streaming_form(tmp_path):
    export(BNLSTM(3, 5, bidirectional=True, max_length=4).eval(), tmp_path / "m.onnx")
    session = Session(tmp_path / "m.onnx")
    assert "start_step" not in [value.name for value in session.state_inputs]
    _, end = session(make_x(6, 2, 3))
    assert end.step is None
    with pytest.raises(InputError, match="cannot continue a stream"):
        session(make_x(6, 2, 3), state=end)
    session.run({"input": make_x(6, 2, 3), "initial_h": end.h, "initial_c": end.c})


def write_text(path):
    path.write_text("no graph")


def write_nothing(path):
    del path


def edited(**changes):
    def write(path):
        export(BNLSTM(3, 5, max_length=4).eval(), path)
        proto = onnx.load(path)
        for entry in proto.metadata_props:
            entry.value = changes.get(entry.key.removeprefix("bnlstm."), entry.value)
        onnx.save(proto, path)

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_nothing, "does not exist"),
        (write_text, "ONNX Runtime cannot load"),
        (edited(format_version="9"), "format_version is '9'"),
        (edited(layers="[{}]"), "metadata is damaged"),
        (edited(layers="["), "metadata is damaged"),
    ],
)
def test_unusable_files_are_clear_errors(write, message, tmp_path):
    write(tmp_path / "m.onnx")
    with pytest.raises(RuntimeSessionError, match=message):
        Session(tmp_path / "m.onnx")


def test_a_file_of_another_exporter_is_a_clear_error(path, tmp_path):
    proto = onnx.load(path)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(RuntimeSessionError, match="not exported by bnlstm-deploy"):
        Session(tmp_path / "m.onnx")


def test_a_graph_that_fails_at_run_time_is_a_clear_error(path, tmp_path):
    proto = onnx.load(path)
    (row,) = (node for node in proto.functions[0].node if node.output[0] == "row")
    row.op_type = "Max"  # statistics past the last row
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(RuntimeSessionError, match=r"(?s)ONNX Runtime failed: .*out of data bounds"):
        Session(tmp_path / "m.onnx", native=False)(X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"providers": ("cuda",)}, "pip install 'bnlstm-deploy\\[gpu\\]'"),
        ({"providers": ("quantum",)}, "Pass one of \\['cpu', 'cuda', 'tensorrt'\\]"),
        ({"providers": ()}, "providers is \\(\\)"),
        ({"providers": "cpu"}, "pass a sequence"),
        ({"intra_op_num_threads": 0}, "intra_op_num_threads is 0"),
    ],
)
def test_unusable_options_are_clear_errors(path, arguments, message):
    with pytest.raises(RuntimeSessionError, match=message):
        Session(path, **arguments)


def test_a_silent_fallback_is_an_error(path, monkeypatch):
    """onnxruntime-gpu without a GPU lists CUDA as available and then runs on the CPU."""
    monkeypatch.setattr(
        ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    create = ort.InferenceSession

    def fall_back(path, options, *, providers, **arguments):
        assert providers[0] == ("CUDAExecutionProvider", {"use_tf32": 0, "device_id": 1})
        return create(path, options, providers=["CPUExecutionProvider"], **arguments)

    monkeypatch.setattr(ort, "InferenceSession", fall_back)
    with pytest.raises(RuntimeSessionError, match="could not start CUDAExecutionProvider"):
        Session(path, providers=(("cuda", {"device_id": 1}), "cpu"))


def test_providers_have_short_and_full_names(path):
    for name in ("cpu", "CPUExecutionProvider", ("cpu", {})):
        assert Session(path, providers=(name,)).providers == ("CPUExecutionProvider",)


def test_a_session_on_the_cpu_leaves_nothing_to_another(path):
    strict = Session(path, providers=("cpu",), allow_partial=False)
    assert strict.providers == ("CPUExecutionProvider",)
