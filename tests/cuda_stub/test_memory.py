"""No exported file reads a number on the CPU that ONNX Runtime has freed.

Of a graph that is on a GPU and on the CPU ONNX Runtime does not count the readers of a number that
an operator such as Squeeze hands on in its input's memory: with other runs beside it, it may be
one of theirs by then.
"""

import os
import subprocess
import sys

import pytest

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session
from tests.cuda_stub.cases import FILES, LENGTHS
from tests.cuda_stub.environment import require_stubs
from tests.models import randomize

require_stubs()

OVERWRITE = {"MALLOC_PERTURB_": "165"}
"""Makes glibc write over memory that is freed."""


def check(paths):
    command = [sys.executable, "-m", "tests.cuda_stub.freed", *map(str, paths)]
    done = subprocess.run(
        command, env=os.environ | OVERWRITE, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


@pytest.mark.parametrize("batch_first", [False, True])
def test_none_of_one_layer_does(batch_first, tmp_path):
    """In the smallest graphs more values are of one size, and share memory, than in the table's."""
    model = randomize(BNLSTM(3, 8, batch_first=batch_first, max_length=4))
    for target in ("cpu", "cuda"):
        for form, length in (("scan", None), ("unrolled", 6), ("unrolled", 40)):
            path = tmp_path / f"{form}-{length}-{target}.onnx"
            export(model, path, form=form, length=length, target=target)
    check(tmp_path.iterdir())


def test_none_of_the_table_does(folder):
    check(
        file.write(folder, LENGTHS[-1])
        for file in FILES
        if not file.kind.native and file.dtype == "float32"
    )


def test_sessions_have_no_memory_used_again_for_files_that_did(tmp_path):
    export(randomize(BNLSTM(3, 8, max_length=4)), tmp_path / "model.onnx")
    session = Session(tmp_path / "model.onnx", providers=("cuda",))
    assert not session.raw.get_session_options().enable_mem_reuse
