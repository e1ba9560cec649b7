"""verify() checks a file's function body and the native kernel, each by itself."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.native import build as native_build
from bnlstm_deploy.native import library_path
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime.kernel import VARIABLE, instruction_sets
from bnlstm_deploy.verification import Report, verify
from bnlstm_deploy.verification.measuring.process import GraphProcess
from tests.models import randomize

pytestmark = pytest.mark.slow

KERNELS = ["function body", *(f"native {name}" for name in instruction_sets())]


@pytest.fixture(scope="module")
def model() -> BNLSTM:
    return randomize(BNLSTM(3, 20, max_length=4))


@pytest.fixture(scope="module")
def path(model, tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("native") / "m.onnx"
    export(model, path)
    return path


def kernels(report: Report) -> list[str]:
    return list(dict.fromkeys(c.kernel for c in report.precision))


def test_every_instruction_set_of_this_machine_is_checked(model, path):
    report = verify(model, path, search_seconds=0.2)
    assert report.passed
    assert kernels(report) == KERNELS
    assert not report.no_native
    cases = {(c.case, c.value) for c in report.precision}
    for kernel in KERNELS:  # all on the same cases
        assert {(c.case, c.value) for c in report.precision if c.kernel == kernel} == cases
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert report.worst is not None
    assert report.worst.kernel in KERNELS


def test_a_variable_chooses_one(model, path, monkeypatch):
    monkeypatch.setenv(VARIABLE, instruction_sets()[0])
    report = verify(model, path, search_seconds=0)
    assert kernels(report) == KERNELS[:2]


def test_a_variable_chooses_none(model, path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "0")
    report = verify(model, path, search_seconds=0)
    assert report.passed
    assert kernels(report) == ["function body"]
    assert report.no_native == f"{VARIABLE}=0"


def test_an_instruction_set_that_cannot_be_had(model, path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "sse9")
    with pytest.raises(RuntimeSessionError, match=f"{VARIABLE}=sse9.*set it to one of"):
        verify(model, path)


def test_without_the_native_kernel(model, path):
    report = verify(model, path, search_seconds=0, native=False)
    assert kernels(report) == ["function body"]
    assert report.no_native == "native=False"


def test_types_that_it_is_not_for(model, tmp_path):
    export(model, tmp_path / "m.onnx", dtype=torch.float16)
    report = verify(model, tmp_path / "m.onnx", search_seconds=0)
    assert kernels(report) == ["function body"]
    assert report.no_native == "the native kernel is for float32 and float64, not float16"


def test_a_crash_of_the_native_kernel_is_a_finding(model, path, monkeypatch):
    start, run = GraphProcess.__init__, GraphProcess.run

    def starting(self, path, provider, instruction_set=None):
        self.instruction_set = instruction_set
        start(self, path, provider, instruction_set)

    def crashing(self, feeds):
        if self.instruction_set == instruction_sets()[-1]:
            os.kill(self._process.pid, signal.SIGSEGV)
            self._process.wait()
        return run(self, feeds)

    monkeypatch.setattr(GraphProcess, "__init__", starting)
    monkeypatch.setattr(GraphProcess, "run", crashing)
    report = verify(model, path, search_seconds=0)
    assert not report.passed
    (crash,) = report.crashes
    assert f"(native {instruction_sets()[-1]})" in crash
    assert "SIGSEGV" in crash
    assert kernels(report) == KERNELS[:-1]
    assert "differs from the file's own function body" in report.diagnosis["summary"]


COEFFICIENTS = {
    "EXP_2": ("= 0.5f;", "= 0.50005f;"),
    "EXP_3": ("= 0x1.555554p-3f;", "= 0.16675f;"),
    "EXP_5": ("= 0x1.1112d4p-7f;", "= 0.01f;"),
    "LN2_LOW": ("= -2.12194440054690583e-4f;", "= -2.14e-4f;"),
}


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_a_library_with_a_wrong_coefficient_fails(model, path, tmp_path, name, monkeypatch):
    sources = tmp_path / "src"
    sources.mkdir()
    right, wrong = (f"constexpr float {name} {value}" for value in COEFFICIENTS[name])
    for file in native_build.SOURCES.iterdir():
        text = file.read_text()
        assert (right in text) == (file.name == "activations.h")
        (sources / file.name).write_text(text.replace(right, wrong))
    monkeypatch.setattr(native_build, "SOURCES", sources)
    library = tmp_path / library_path().name
    native_build.build(library)
    monkeypatch.setattr("bnlstm_deploy.runtime.kernel.library_path", lambda: library)
    report = verify(model, path, isolated=False, search_seconds=0)
    assert not report.passed
    assert {c.kernel for c in report.failures} == set(KERNELS[1:])
    summary = report.diagnosis["summary"]
    assert summary.startswith("the native kernel (")
    assert all(f"native {name}: " in summary for name in instruction_sets())
    assert "differs from the file's own function body, which passes" in summary
    assert "The library was built wrongly" in summary
