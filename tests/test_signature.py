"""What a signature says beside names: see also tests/runtime and tests/client."""

import subprocess
import sys

import pytest

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from tests.models import randomize

N, T = 32, 1024

PROGRAM = """
import sys
import numpy as np
from bnlstm_deploy.runtime import Session

session = Session(sys.argv[1], native=False)
x = np.zeros((int(sys.argv[3]), int(sys.argv[2]), 3), np.float32)
session(x[:2, :1])

def peak():
    status = dict(line.split(":") for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) * 1024

before = peak()
session(x)
print(session.signature.run_bytes(*map(int, sys.argv[2:4])), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a process takes")
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("H", [64, 100])
def test_a_run_takes_the_bytes_that_are_told(layers, bidirectional, H, tmp_path):
    model = BNLSTM(3, H, layers, bidirectional=bidirectional, max_length=4)
    export(randomize(model), tmp_path / "m.onnx")
    command = [sys.executable, "-c", PROGRAM, tmp_path / "m.onnx", str(N), str(T)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    told, taken = map(int, result.stdout.split())
    assert 0.5 * told < taken < 1.25 * told  # an arena rounds, and uses memory again
