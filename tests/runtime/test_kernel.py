"""The native kernel in sessions: taken where it can be, and said so."""

import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.native import available, digest_path, library_path
from bnlstm_deploy.native.build import build
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Buckets, Session
from bnlstm_deploy.runtime.kernel import (
    INSTRUCTION_SETS,
    THREADS,
    VARIABLE,
    Native,
    choosing,
    instruction_sets,
)
from tests.models import randomize

BEST = instruction_sets()[-1]
X = np.random.default_rng(0).standard_normal((6, 3, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return randomize(BNLSTM(2, 20, max_length=4))


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("native") / "m.onnx"
    export(model, path)
    return path


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def truth(model, x=X):
    with torch.no_grad():
        single = model(torch.from_numpy(x))[0].numpy()
        double = model.double()(torch.from_numpy(x).double())[0].numpy()
    model.float()
    return double, np.abs(single - double).max()


def assert_right(model, session):
    expected, own = truth(model)
    assert np.abs(session(X)[0] - expected).max() <= 4 * own + 1e-7


def test_a_session_takes_it_and_says_so(model, path):
    session = Session(path)
    assert session.native
    assert session.native == Native(BEST)
    assert str(session.native) == f"native kernel ({BEST})"
    assert_right(model, session)


def test_without_it(model, path, caplog):
    session = Session(path, native=False)
    assert not session.native
    assert str(session.native) == "function body: native=False"
    assert_right(model, session)
    assert not caplog.records
    # It is another computation, and so another rounding.
    x = np.random.default_rng(1).standard_normal((50, 20, 2)).astype(np.float32)
    assert (Session(path)(x)[0] != session(x)[0]).any()


@pytest.mark.parametrize("value", ["", "1"])
def test_the_variable_asks_for_the_best(path, monkeypatch, value):
    monkeypatch.setenv(VARIABLE, value)
    assert Session(path).native == Native(BEST)


def test_the_variable_asks_for_the_function_body(path, monkeypatch, caplog):
    monkeypatch.setenv(VARIABLE, "0")
    assert str(Session(path).native) == f"function body: {VARIABLE}=0"
    assert not caplog.records


@pytest.mark.parametrize("name", instruction_sets())
def test_the_variable_names_one(model, path, monkeypatch, name):
    monkeypatch.setenv(VARIABLE, name)
    session = Session(path)
    assert session.native == Native(name)
    assert_right(model, session)


@pytest.mark.parametrize(
    "name", ["sse9", "AVX2", *sorted({*INSTRUCTION_SETS} - {*instruction_sets()})]
)
def test_a_name_that_cannot_be_had(path, monkeypatch, name):
    monkeypatch.setenv(VARIABLE, name)
    message = rf"{VARIABLE}={name}: the native kernel cannot be used: .*set it to one of: baseline"
    with pytest.raises(RuntimeSessionError, match=f"(?s){message}"):
        Session(path)
    Session(path, native=False)


def test_choosing_restores_the_variable(monkeypatch):
    with choosing("baseline"):
        assert os.environ[VARIABLE] == "baseline"
    assert VARIABLE not in os.environ
    monkeypatch.setenv(VARIABLE, "0")
    with pytest.raises(ZeroDivisionError), choosing("baseline"):
        raise ZeroDivisionError
    assert os.environ[VARIABLE] == "0"


def test_the_library_knows_the_number_of_threads(path, monkeypatch):
    entries = {}

    def record(self, key, value):
        entries[key] = value

    monkeypatch.setattr("onnxruntime.SessionOptions.add_session_config_entry", record)
    Session(path, intra_op_num_threads=3)
    assert entries[THREADS] == "3"


def foreign(path):
    """Write the library of another CPU."""
    other = "x86_64" if os.uname().machine == "aarch64" else "aarch64"
    build(path, f"{other}-linux-gnu.2.17")


def build_other(path):
    """Write a library without the one symbol."""
    source = path.with_suffix(".c")
    source.write_text("int nothing(void) { return 0; }\n")
    command = (sys.executable, "-m", "ziglang", "cc", "-shared", str(source), "-o", str(path))
    subprocess.run(command, check=True)
    digest_path(path).write_text(hashlib.sha256(path.read_bytes()).hexdigest())


def damaged(content):
    """Return a function that writes it in the place of the library of the digest."""

    def write(path):
        path.write_bytes(content)
        shutil.copyfile(digest_path(library_path()), digest_path(path))

    return write


LIBRARY = library_path().read_bytes()
FLIPPED = LIBRARY[:50000] + bytes([LIBRARY[50000] ^ 1]) + LIBRARY[50001:]
DAMAGES = {
    "noise": (damaged(os.urandom(5000)), "is damaged"),
    "empty": (damaged(b""), "is damaged"),
    "truncated": (damaged(LIBRARY[:3000]), "is damaged"),
    "one bit": (
        damaged(FLIPPED),
        "is damaged",
    ),
    "no digest": (lambda path: path.write_bytes(LIBRARY), "cannot be read"),
    "foreign": (foreign, "cannot be used"),
    "another library": (build_other, "cannot be used"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_library_that_does_not_work(model, path, tmp_path, monkeypatch, caplog, damage):
    library = tmp_path / library_path().name
    write, message = DAMAGES[damage]
    write(library)
    monkeypatch.setattr("bnlstm_deploy.native.FOLDER", tmp_path)
    with caplog.at_level(logging.WARNING, "bnlstm_deploy.runtime"):
        session = Session(path)
    assert not session.native
    assert session.native.reason.startswith(f"the native kernel's library {library} {message}")
    (record,) = caplog.records
    assert record.getMessage().endswith(session.native.reason)
    assert "\n" not in record.getMessage()
    assert_right(model, session)
    assert instruction_sets() == ()


def test_no_library(model, path, monkeypatch, caplog):
    monkeypatch.setattr("bnlstm_deploy.native.LIBRARY_NAMES", {"linux": "none.so"})
    assert not available()
    with pytest.raises(RuntimeSessionError, match=r"bnlstm-deploy.native.*native\.build"):
        library_path()
    session = Session(path)
    assert "the native kernel was not built for this installation" in session.native.reason
    assert not caplog.records  # it is the same at every start, and no mistake
    assert_right(model, session)
    assert instruction_sets() == ()


def test_types_that_it_is_not_for(model, tmp_path, caplog):
    export(model, tmp_path / "half.onnx", dtype=torch.float16)
    with caplog.at_level(logging.WARNING, "bnlstm_deploy.runtime"):
        session = Session(tmp_path / "half.onnx")
    assert session.native.reason == "the native kernel is for float32 and float64, not float16"
    (record,) = (record for record in caplog.records if record.name == "bnlstm_deploy.runtime")
    assert "not float16" in record.getMessage()
    assert session(X)[0].dtype == np.float32  # inputs and outputs stay


def test_float64(model, tmp_path):
    export(model, tmp_path / "double.onnx", dtype=torch.float64)
    session = Session(tmp_path / "double.onnx")
    assert session.native
    np.testing.assert_allclose(session(X.astype(float))[0], truth(model)[0], rtol=1e-12, atol=1e-13)


def test_a_wrong_file_is_the_same_error(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    messages = set()
    for native in (True, False):
        with pytest.raises(RuntimeSessionError) as caught:
            Session(tmp_path / "m.onnx", native=native)
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_an_error_of_the_kernel_is_one_of_the_session(path):
    session = Session(path)
    feeds = {"input": X, "lengths": np.array([1, -1, 1])}
    with pytest.raises(Exception, match=re.escape("lengths[1] is -1; it must be at least 0")):
        session.raw.run(None, feeds)


def test_buckets_take_it(model, path):
    buckets = Buckets(path, batches=(4,), lengths=(8,), providers=("cpu",), capture=False)
    (session,) = {id(s): s for s in buckets._sessions.values()}.values()
    assert session.native == Native(BEST)
    expected, own = truth(model)
    assert np.abs(buckets(X)[0] - expected).max() <= 4 * own + 1e-7


def test_streams_and_threads_change_no_bit(path):
    x = np.random.default_rng(0).standard_normal((9, 13, 2)).astype(np.float32)
    whole, state = Session(path, intra_op_num_threads=1)(x)
    session = Session(path, intra_op_num_threads=2)
    for n in range(13):
        alone, left = session(x[:, n : n + 1])
        np.testing.assert_array_equal(alone[:, 0], whole[:, n])
        np.testing.assert_array_equal(left.c[:, 0], state.c[:, n])


@pytest.mark.parametrize("threads", [1, 2])
def test_many_sessions_and_threads_at_a_time(path, threads):
    code = f"""
import threading, numpy as np
from bnlstm_deploy.runtime import Session
x = np.random.default_rng(0).standard_normal((40, 9, 2)).astype(np.float32)
expected = Session({str(path)!r})(x)[0]
wrong = []
def work():
    for _ in range(10):
        session = Session({str(path)!r}, intra_op_num_threads={threads})
        for _ in range(20):
            if (session(x)[0] != expected).any():
                wrong.append(1)
running = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in running]
[t.join() for t in running]
print(len(wrong))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
