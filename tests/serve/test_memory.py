"""What the server keeps: nothing of streams that are over, and little beside ONNX Runtime."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.servers import export_small, running

pytestmark = pytest.mark.slow

MEGABYTE = 2**20

SESSION = """
import onnxruntime, pathlib, sys
session = onnxruntime.InferenceSession(sys.argv[1])
print(pathlib.Path("/proc/self/status").read_text())
"""


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return export_small(tmp_path_factory.mktemp("models") / "small.onnx")


def python(*arguments):
    """Return what a process prints that has nothing of this one."""
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def resident(status):
    """Return the megabytes of a process in memory."""
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def test_a_thousand_streams_leave_nothing_behind(model_path):
    """100,000 chunks, of which a tenth fill what is only made once."""
    result = json.loads(python("-m", "tests.serve.soak", model_path, 100_000))
    first, *_, last = result["resident"]
    assert last - first < 4 * MEGABYTE
    assert result["chunks"] == 100_000
    assert result["failures"] == {}
    assert result["steps"] > 100  # they are at that many timesteps
    assert result["batch"] > 2  # and still share runs, however busy the machine is
    assert result["sequences"] <= 500
    assert result["compared"] > 100
    assert result["difference"] <= 4e-7


def test_a_server_takes_little_more_than_onnxruntime(model_path):
    with running(model_path) as server:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
    assert resident(status) - resident(python("-c", SESSION, model_path)) < 300
