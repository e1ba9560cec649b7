"""The native kernel without ONNX Runtime: sanitizers, and another CPU. See driver.cpp."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bnlstm_deploy.native.build import build
from bnlstm_deploy.runtime.kernel import VARIABLE, instruction_sets

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).with_name("driver.cpp")
SANITIZERS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread",),
}
WIDE = ("-DWIDTH=16", "-DSTREAMS=6")
"""Vectors of AVX-512's width, which compilers make of narrower ones for other CPUs."""

ALL = "CI" in os.environ
"""Whether all tests must run: then they fail where what they need is missing."""

needs_gcc = pytest.mark.skipif(
    not (shutil.which("g++") or ALL) or sys.platform != "linux",
    reason="needs g++ and its sanitizers",
)


def run(*command: str | Path, instruction_set: str = "1") -> str:
    """Run a driver and return what it prints."""
    done = subprocess.run(
        [*map(str, command)],
        env=os.environ | {VARIABLE: instruction_set},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=SANITIZERS)
def sanitized(request, tmp_path_factory) -> Path:
    """Return the driver with a sanitizer."""
    driver: Path = tmp_path_factory.mktemp("driver") / request.param
    flags = (*SANITIZERS[request.param], "-g", "-O1", "-pthread")
    build(driver, flags=flags, compiler=["g++"], program=DRIVER)
    return driver


@needs_gcc
@pytest.mark.parametrize("instruction_set", instruction_sets())
def test_sanitizers_find_nothing(sanitized, instruction_set):
    for mode in ("contract", "together"):
        count = "400" if sanitized.name == "address" else "100"
        assert run(sanitized, mode, "1", count, "2", instruction_set=instruction_set)


@needs_gcc
def test_the_width_of_avx512_on_any_cpu(tmp_path):
    flags = (*WIDE, *SANITIZERS["address"], "-g", "-O1", "-pthread", "-Wno-psabi")
    driver = tmp_path / "wide"
    build(driver, flags=flags, compiler=["g++"], program=DRIVER)
    assert run(driver, "contract", "2", "400", "2")
    assert "sigmoid within" in run(driver, "activations", "100003")


@needs_gcc
def test_an_onnxruntime_that_is_too_old(tmp_path):
    build(tmp_path / "driver", flags=["-pthread"], compiler=["g++"], program=DRIVER)
    message = run(tmp_path / "driver", "old")
    assert "needs API version 21 of ONNX Runtime, and this one, 1.20.1, is older" in message
    assert "install ONNX Runtime" in message


@pytest.mark.skipif(
    not (shutil.which("qemu-aarch64") or ALL) or platform.machine() == "aarch64",
    reason="needs qemu-user, and another CPU",
)
def test_neon_under_an_emulator(tmp_path):
    driver = tmp_path / "driver"
    build(driver, "aarch64-linux-musl", flags=["-static"], program=DRIVER)
    assert run("qemu-aarch64", driver, "contract", "3", "300", "1", instruction_set="neon")
    assert "tanh within" in run("qemu-aarch64", driver, "activations", "20011")
