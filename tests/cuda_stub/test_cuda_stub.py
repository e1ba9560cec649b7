"""The CUDA provider launches, copies and waits as the table says."""

import numpy as np
import onnx
import pytest

from bnlstm_deploy.runtime import Session
from tests.cuda_stub.cases import DTYPES, FILES, KINDS, LENGTHS, STREAMS, D, File, H
from tests.cuda_stub.environment import require_stubs
from tests.cuda_stub.launches import load
from tests.cuda_stub.measure import counted, feeds, open_session, rows, run_once

require_stubs()


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS[:2], ids=lambda kind: kind.name)
def test_weights_are_computed_as_a_file_is_loaded(kind, dtype, tmp_path):
    """A run has no work on weights, and none that grows with the number of their rows."""
    time = LENGTHS[-1]
    counted_ = []
    for number in (3, time, 40):
        file = File(kind, 1, 1, dtype, rows=number)
        optimized = tmp_path / "optimized.onnx"
        session = open_session(file.write(tmp_path, time), optimized=optimized)
        graph = onnx.load(optimized).graph
        given = {entry.name for entry in graph.input}  # optional ones are initializers, too
        constants = {"", *(entry.name for entry in graph.initializer)} - given
        assert not [node.op_type for node in graph.node if constants.issuperset(node.input)]
        counted_.append(run_once(session, feeds(file, "lengths", time)))
    assert counted_[0] == counted_[1] == counted_[2]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_sessions_of_the_package_run_there(kind, folder):
    session = Session(File(kind, 1, 1).write(folder, LENGTHS[-1]), providers=("cuda", "cpu"))
    assert session.providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
    with counted() as results:
        y, state = session(np.zeros((LENGTHS[-1], STREAMS, D), np.float32))
    assert y.shape == (LENGTHS[-1], STREAMS, H)
    assert state.h.shape == (1, STREAMS, H)
    assert results[0].kernels.total() > 0
    assert not results[0].errors
