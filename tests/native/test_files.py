"""Exported files, whole and damaged, on the native kernel in plain ONNX Runtime."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from bnlstm_deploy.native import library_path
from bnlstm_deploy.npz import read_npz
from bnlstm_deploy.runtime.kernel import choosing, instruction_sets

VERSION_0_1_0 = Path(__file__).parent / "version_0_1_0.onnx"

CORRUPTIONS = int(os.environ.get("CORRUPTIONS", "10000"))
WORKERS = 2


def native_session(path: Path, instruction_set: str) -> ort.InferenceSession:
    """Open a file in plain ONNX Runtime with the library registered."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    with choosing(instruction_set):
        options.register_custom_ops_library(str(library_path()))
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("instruction_set", instruction_sets())
def test_a_file_of_version_0_1_0(instruction_set):
    recorded = read_npz(VERSION_0_1_0.with_suffix(".npz"))
    feeds = {name: recorded[name] for name in recorded if "/" not in name}
    session = native_session(VERSION_0_1_0, instruction_set)
    names = [value.name for value in session.get_outputs()]
    for name, result in zip(names, session.run(names, feeds), strict=True):
        truth, single = recorded[f"truth/{name}"], recorded[f"float32/{name}"]
        own = np.abs(single - truth).max()
        assert np.abs(result - truth).max() <= 4 * own + (result.dtype == np.float32) * 1e-8


def test_its_nodes_have_the_native_kernel_and_not_their_body(tmp_path):
    """A body that computes something else changes nothing."""
    content = VERSION_0_1_0.read_bytes()
    assert b"Tanh" in content
    path = tmp_path / "atan.onnx"
    path.write_bytes(content.replace(b"Tanh", b"Atan"))
    recorded = read_npz(VERSION_0_1_0.with_suffix(".npz"))
    feeds = {name: recorded[name] for name in recorded if "/" not in name}
    best = instruction_sets()[-1]
    expected = native_session(VERSION_0_1_0, best).run(None, feeds)
    for left, right in zip(native_session(path, best).run(None, feeds), expected, strict=True):
        np.testing.assert_array_equal(left, right)


FUZZER = """
import os, sys
import numpy as np
import onnxruntime as ort

path, library, begin, end = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
content = open(path, "rb").read()
recorded = np.load(path.replace(".onnx", ".npz"))
feeds = {name: recorded[name] for name in recorded.files if "/" not in name}
ran = 0
for seed in range(begin, end):
    print(seed, flush=True)
    random = np.random.default_rng(seed)
    damaged = bytearray(content)
    for _ in range(random.integers(1, 9)):
        place, kind = random.integers(len(damaged)), random.integers(4)
        if kind == 0:
            damaged[place] = random.integers(256)
        elif kind == 1:
            damaged[place] ^= 1 << random.integers(8)
        elif kind == 2:
            del damaged[place : place + random.integers(1, 9)]
        else:
            damaged[place:place] = random.bytes(random.integers(1, 9))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if library:
        options.register_custom_ops_library(library)
    try:
        session = ort.InferenceSession(
            bytes(damaged), options, providers=["CPUExecutionProvider"]
        )
        names = {value.name for value in session.get_inputs()}
        names |= {value.name for value in session.get_overridable_initializers()}
        session.run(None, {name: array for name, array in feeds.items() if name in names})
        ran += 1
    except Exception:
        pass
print("ran", ran, flush=True)
"""


class Fuzzer:
    """A process that loads and runs damaged files."""

    def __init__(self, library: str, begin: int, end: int) -> None:
        self.end = end
        arguments = [str(VERSION_0_1_0), library, str(begin), str(end)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", FUZZER, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def wait(self) -> tuple[int, int | None]:
        """Return how many files ran, and the seed of the one that crashed it, if one did."""
        lines = self.process.communicate()[0].split("\n")
        if self.process.returncode == 0:
            return int(lines[-2].split()[1]), None
        return 0, int(lines[-2])


@pytest.mark.slow
def test_damaged_files_never_crash_the_process():
    """What crashes ONNX Runtime without the library, too, is none of its business."""
    library = str(library_path())
    share = CORRUPTIONS // WORKERS
    running = [Fuzzer(library, i * share, (i + 1) * share) for i in range(WORKERS)]
    ran = 0
    while running:
        fuzzer = running.pop()
        count, seed = fuzzer.wait()
        ran += count
        if seed is not None:
            alone = Fuzzer("", seed, seed + 1).wait()[1]
            assert alone == seed, f"the file of seed {seed} crashes with the library alone"
            running.append(Fuzzer(library, seed + 1, fuzzer.end))
    assert ran > CORRUPTIONS / 50  # some are damaged where it does not matter, or in a number
