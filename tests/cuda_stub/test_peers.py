"""The benchmark's peers on CUDA load and run; what they compute, the stubs do not say."""

import pytest

from tests.cuda_stub import counts
from tests.cuda_stub.environment import require_stubs
from tools.peers import ON_CUDA, WRITERS_ON_CUDA, Setup, Size, random_input

require_stubs()


@pytest.mark.parametrize("peer", ON_CUDA)
def test_it_runs_as_it_is_called(peer, tmp_path):
    setup = Setup(Size(2, 5, 4, 8), 0, 1, "cuda", tmp_path)
    WRITERS_ON_CUDA[setup.file(peer).stem](setup.size, 0, setup.file(peer))
    run = ON_CUDA[peer](setup)
    x = random_input(setup)
    run(x)
    counts.reset()
    for _ in range(2):
        assert run(x).shape == (5, 2, 8)
    counted = counts.read()
    assert not counted.errors
    if peer == "native, not captured":
        assert counted.kernels["sequence"] == 2
    else:
        assert counted.graphs["launch"] == 2
        assert not counted.kernels
