"""The CUDA provider launches, copies and waits as the table says."""

import numpy as np
import pytest

from bnlstm_deploy.runtime import Session
from tests.cuda_stub.cases import FILES, KINDS, LENGTHS, D, File, H
from tests.cuda_stub.environment import require_stubs
from tests.cuda_stub.launches import load
from tests.cuda_stub.measure import counted, rows

require_stubs()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def name(file):
    return f"{file.kind.name}-{file.layers}-{file.directions}-{file.dtype}"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_the_table_is_what_is_counted(file, folder):
    kind = file.kind
    what = (kind.form, kind.folding, kind.of, file.dtype, file.layers, file.directions)
    table = [
        row
        for row in load()
        if (row.form, row.folding, row.of, row.dtype, row.layers, row.directions) == what
    ]
    # if the forms have changed on purpose: make launches
    assert list(rows(file, folder)) == table


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_sessions_of_the_package_run_there(kind, folder):
    session = Session(File(kind, 1, 1).write(folder, LENGTHS[-1]), providers=("cuda", "cpu"))
    assert session.providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
    with counted() as results:
        y, state = session(np.zeros((LENGTHS[-1], kind.streams, D), np.float32))
    assert y.shape == (LENGTHS[-1], kind.streams, H)
    assert state.h.shape == (1, kind.streams, H)
    assert results[0].kernels.total() > 0
    assert not results[0].errors
