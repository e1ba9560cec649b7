"""What `bnlstm-deploy doctor` finds, and what it says of what it does not find."""

import importlib.metadata
import json
import subprocess
import sys

import onnxruntime as ort
import pytest
from typer.testing import CliRunner

from bnlstm_deploy import native
from bnlstm_deploy.cli.main import app
from bnlstm_deploy.errors import RuntimeSessionError


def doctor():
    result = CliRunner().invoke(app, ["doctor", "--json"])
    return result.exit_code, {line["what"]: line for line in json.loads(result.stdout)}


@pytest.fixture
def without(monkeypatch):
    """Make packages seem not to be installed."""
    absent = set()
    version = importlib.metadata.version

    def find(package):
        if package in absent:
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(importlib.metadata, "version", find)
    return absent


def test_versions_providers_and_kernel_are_those_that_are_here():
    status, found = doctor()
    assert status == 0
    assert found["torch"]["found"] == importlib.metadata.version("torch")
    assert found["providers"]["found"] == ", ".join(ort.get_available_providers())
    if native.available():
        assert found["native kernel"]["found"].startswith("baseline")
        assert found["native kernel"]["remedy"] == ""


def test_what_is_missing_comes_with_the_line_that_installs_it(without, monkeypatch):
    def no_library():
        raise RuntimeSessionError("This installation has no native kernel. Install it")

    without |= {"torch", "ray"}
    monkeypatch.setattr(native, "library_path", no_library)
    status, found = doctor()
    assert status == 0
    assert found["torch"] == {
        "what": "torch", "found": "", "remedy": "pip install 'bnlstm-deploy[convert]'"
    }  # fmt: skip
    assert found["ray"]["remedy"] == "pip install 'bnlstm-deploy[ray]'"
    assert found["native kernel"]["found"] == ""
    assert "no native kernel" in found["native kernel"]["remedy"]


def test_without_onnx_runtime_the_status_is_1(without):
    without |= {"onnxruntime", "onnxruntime-gpu"}
    status, found = doctor()
    assert status == 1
    assert found["onnxruntime"]["remedy"] == "pip install 'bnlstm-deploy[cpu]'"
    assert found["onnxruntime-gpu"]["remedy"] == "pip install 'bnlstm-deploy[gpu]'"


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "bnlstm_deploy", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == importlib.metadata.version("bnlstm-deploy")
