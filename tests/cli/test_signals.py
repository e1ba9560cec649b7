"""Signals: one line, exit status 130 or 143, and no file that is not whole."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bnlstm_deploy.atomic import MARK
from bnlstm_deploy.checkpoint import save_checkpoint
from bnlstm_deploy.nn import BNLSTM
from tests.models import randomize

pytestmark = pytest.mark.slow

DURING_IMPORT = """
import importlib.abc, os, signal, sys
class Interrupts(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Interrupts())
from bnlstm_deploy.cli.entry import main
sys.argv = ["bnlstm-deploy", "convert", "ck", "-o", "m.onnx"]
main()
"""

WAIT = 240


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(randomize(BNLSTM(3, 64, 2, max_length=60)), tmp_path / "ck")
    np.savez(tmp_path / "x.npz", input=np.zeros((4, 3, 3), np.float32))
    return tmp_path


def start(folder, *command):
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def left(folder):
    return [path for path in folder.iterdir() if MARK in path.name]


def wait_for_work(folder, process):
    while not any(list(place.iterdir()) for place in left(folder)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["typer", "torch", "bnlstm_deploy.verification"])
def test_while_it_imports(folder, module, number):
    code = DURING_IMPORT.format(module=module, number=int(number))
    _, error = (process := start(folder, "-c", code)).communicate(timeout=WAIT)
    assert (process.returncode, error) == (128 + number, f"stopped by {number.name}\n")
    assert [path.name for path in sorted(folder.iterdir())] == ["ck", "x.npz"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whole_group", [False, True])
def test_while_it_works(folder, number, whole_group):
    process = start(folder, "-m", "bnlstm_deploy.cli.entry", "convert", "ck", "-o", "m.onnx")
    wait_for_work(folder, process)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, error = process.communicate(timeout=WAIT)
    assert (process.returncode, error) == (128 + number, f"stopped by {number.name}\n")
    assert [path.name for path in sorted(folder.iterdir())] == ["ck", "x.npz"]


def test_what_a_kill_leaves_is_removed_by_the_next_run(folder):
    command = ("-m", "bnlstm_deploy.cli.entry", "convert", "ck", "-o", "m.onnx")
    process = start(folder, *command)
    wait_for_work(folder, process)  # which lasts: what was written is verified
    process.kill()
    process.communicate(timeout=WAIT)
    assert left(folder)
    _, error = (process := start(folder, *command, "--no-verify")).communicate(timeout=WAIT)
    assert process.returncode == 0, error
    assert [path.name for path in sorted(folder.iterdir())] == ["ck", "m.onnx", "x.npz"]
