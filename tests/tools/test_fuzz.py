"""A part of what `make fuzz` reads: nothing gets through."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_nothing_gets_through():
    command = [sys.executable, "-m", "tools.fuzz", "--cases", "144", "--seed", "7"]
    root = Path(__file__).parents[2]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert len([line for line in run.stdout.splitlines() if line.endswith(" 0 findings")]) == 12
