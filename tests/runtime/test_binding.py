"""Binding: the same numbers as a Session, chunk by chunk, in memory that is allocated once."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnlstm_deploy.errors import InputError, RuntimeSessionError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Binding, Session, State
from tests.models import randomize


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    model = randomize(BNLSTM(3, 5, 2, batch_first=True, max_length=4))
    path = tmp_path_factory.mktemp("binding") / "m.onnx"
    export(model, path)
    return Session(path, intra_op_num_threads=1)


def make_x(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def assert_same_state(one, other):
    for part in ("h", "c", "step"):
        np.testing.assert_array_equal(getattr(one, part), getattr(other, part))


@given(data=st.data())
def test_chunks_are_those_of_a_session(session, data):
    batch, time = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
    chunks = data.draw(st.integers(1, 5))
    binding = session.bind(batch, time)
    assert binding.state is None
    x, state = make_x(batch, chunks * time, 3), None
    for chunk in np.split(x, chunks, axis=1):
        lengths = None
        if data.draw(st.booleans()):
            drawn = st.lists(st.integers(0, time), min_size=batch, max_size=batch)
            lengths = np.array(data.draw(drawn))
        expected, state = session(chunk, state=state, lengths=lengths)
        np.testing.assert_array_equal(binding(chunk, lengths=lengths), expected)
        assert_same_state(binding.state, state)


def test_streams_are_reset_and_continued_elsewhere(session):
    x = make_x(2, 4, 3)
    binding, other = session.bind(2, 4), session.bind(2, 4)
    first = binding(x)
    state = binding.state
    second = binding(x)
    other.set_state(state)
    np.testing.assert_array_equal(other(x), second)
    assert_same_state(other.state, binding.state)
    binding.reset()
    assert binding.state is None
    np.testing.assert_array_equal(binding(x), first)


def test_results_are_copies(session):
    binding = session.bind(2, 4)
    first = binding(make_x(2, 4, 3))
    kept, state = first.copy(), binding.state
    h = state.h.copy()
    binding(make_x(2, 4, 3))
    binding(make_x(2, 4, 3))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(state.h, h)


class Recorder:
    """ONNX Runtime's session, which writes down what it is run with."""

    def __init__(self, session, *, fails=False):
        self.session, self.fails = session, fails
        self.bound, self.graphs = [], []

    def io_binding(self):
        binding = self.session.io_binding()
        addresses = {"input": {}, "output": {}}
        self.bound.append(addresses)
        for kind in ("input", "output"):
            bind = getattr(binding, f"bind_ortvalue_{kind}")

            def record(name, value, kind=kind, bind=bind):
                addresses[kind][name] = value.data_ptr()
                bind(name, value)

            setattr(binding, f"bind_ortvalue_{kind}", record)
        return binding

    def run_with_iobinding(self, binding, options):
        if self.fails:
            raise RuntimeError("out of memory")
        entry = "gpu_graph_id"
        self.graphs.append(options and options.get_run_config_entry(entry))
        self.session.run_with_iobinding(binding, options)


def test_no_run_reads_what_it_writes(session, monkeypatch):
    recorder = Recorder(session.raw)
    monkeypatch.setattr(session, "raw", recorder)
    binding = session.bind(2, 4)
    for _ in range(6):
        binding(make_x(2, 4, 3))
    assert len(recorder.bound) == 3  # from the initial state, and from either set to the other
    for addresses in recorder.bound:
        assert not {*addresses["input"].values()} & {*addresses["output"].values()}
    _, there, back = recorder.bound
    for into, out in binding.carried.items():
        assert there["output"][out] == back["input"][into]
        assert back["output"][out] == there["input"][into]
    for name in ("input", "lengths"):
        assert len({bound["input"][name] for bound in recorder.bound}) == 1
    assert recorder.graphs == [None] * 6


def test_each_pair_of_sets_is_a_graph_of_its_own(session, monkeypatch):
    recorder = Recorder(session.raw)
    monkeypatch.setattr(session, "raw", recorder)
    numbers = itertools.count(1)
    one, other = (Binding(session, 2, time, graphs=numbers) for time in (3, 4))
    for _ in range(2):
        for _ in range(4):
            one(make_x(2, 3, 3))
        one.reset()
    other(make_x(2, 4, 3))
    assert recorder.graphs == ["1", "2", "3", "2", "1", "2", "3", "2", "4"]


def test_a_run_that_fails_leaves_the_state(session, monkeypatch):
    x = make_x(2, 4, 3)
    binding = session.bind(2, 4)
    for _ in range(3):  # such that both bindings between the sets are there
        binding(x)
    state = binding.state
    with monkeypatch.context() as patch:
        patch.setattr(session, "raw", Recorder(session.raw, fails=True))
        with pytest.raises(RuntimeSessionError, match="ONNX Runtime failed: out of memory"):
            binding(x)
    assert_same_state(binding.state, state)
    np.testing.assert_array_equal(binding(x), session(x, state=state)[0])


def test_threads_share_a_binding(session):
    binding = session.bind(2, 4)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: binding(make_x(2, 4, 3)), range(40)))
    assert binding.state.step.tolist() == [160, 160]


@pytest.mark.parametrize("options", [{"bidirectional": True}, {}])
def test_graphs_that_cannot_stream_start_anew(tmp_path, options):
    model = randomize(BNLSTM(3, 5, max_length=4, **options))
    form = {} if options else {"form": "unrolled", "folding": "materialized", "length": 6}
    export(model, tmp_path / "m.onnx", **form)
    session = Session(tmp_path / "m.onnx", intra_op_num_threads=1)
    x = make_x(6, 2, 3)
    expected, end = session(x)
    binding = session.bind(2, 6)
    for _ in range(2):
        np.testing.assert_array_equal(binding(x), expected)
        np.testing.assert_array_equal(binding.state.h, end.h)
        assert binding.state.step is end.step is None
    with pytest.raises(InputError, match="cannot continue a stream"):
        binding.set_state(end)


def make_state(h=(2, 2, 5), dtype=np.float32, step=0):
    return State(np.zeros(h, dtype), np.zeros((2, 2, 5), np.float32), np.full(2, step))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: b(make_x(3, 4, 3)), r"\(3, 4, 3\), this binding is for \(2, 4, 3\)"),
        (lambda b: b(make_x(2, 5, 3)), "bind the session with other sizes"),
        (lambda b: b(), "0 inputs given"),
        (lambda b: b(make_x(2, 4, 3).astype(np.float64)), "float64, the graph takes float32"),
        (lambda b: b(make_x(2, 4, 3), lengths=np.array([5, 1])), "from 1 to 5; pass 0 to 4"),
        (lambda b: b.set_state(make_state(h=(2, 3, 5))), r"'initial_h' has shape \(2, 3, 5\)"),
        (lambda b: b.set_state(make_state(dtype=np.float64)), "is float64, this binding takes"),
        (lambda b: b.set_state(make_state(step=-1)), "'start_step' is -1"),
        (lambda b: b.set_state({}), "the state lacks \\['initial_c'"),
    ],
)
def test_wrong_inputs_are_clear_errors(session, call, message):
    with pytest.raises(InputError, match=message):
        call(session.bind(2, 4))


def test_wrong_sizes_are_clear_errors(session, tmp_path):
    with pytest.raises(InputError, match="pass at least 1 of each"):
        session.bind(0, 4)
    export(randomize(BNLSTM(3, 5, max_length=4)), tmp_path / "m.onnx", form="unrolled", length=6)
    with pytest.raises(InputError, match="time is 5, and this graph is unrolled for 6"):
        Session(tmp_path / "m.onnx").bind(2, 5)


def test_sizes_that_are_neither_are_clear_errors(session, monkeypatch):
    (value,) = session.outputs
    monkeypatch.setattr(session, "outputs", (value._replace(shape=("batch", "time - 1", 5)),))
    with pytest.raises(RuntimeSessionError, match=r"'output' has shape .* Call the session itself"):
        session.bind(2, 4)
