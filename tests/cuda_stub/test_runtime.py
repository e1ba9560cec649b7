"""The stub runtime's own rules, called as a program would: what CUDA forbids is found."""

import ctypes
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cuda_stub import counts
from tests.cuda_stub.environment import require_stubs

require_stubs()

SIZE = 64
UNSUPPORTED, INVALIDATED = 900, 901
H2D, D2H, D2D = 1, 2, 3


class Runtime:
    """One stream of the stub runtime, and what the tests do with it."""

    def __init__(self):
        self.cuda = counts.runtime()
        self.stream = ctypes.c_void_p()
        self.cuda.cudaStreamCreate(ctypes.byref(self.stream))
        counts.reset()

    def device(self, size=SIZE):
        address = ctypes.c_void_p()
        assert self.cuda.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(size)) == 0
        return address

    def pinned(self):
        address = ctypes.c_void_p()
        assert self.cuda.cudaMallocHost(ctypes.byref(address), ctypes.c_size_t(SIZE)) == 0
        return address

    def copy(self, to, source, kind, size=SIZE):
        return self.cuda.cudaMemcpyAsync(to, source, ctypes.c_size_t(size), kind, self.stream)

    def begin(self):
        assert self.cuda.cudaStreamBeginCapture(self.stream, 0) == 0

    def end(self):
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        status = self.cuda.cudaStreamEndCapture(self.stream, ctypes.byref(graph))
        if status:
            return status
        self.cuda.cudaGraphInstantiate(ctypes.byref(executable), graph, ctypes.c_uint64(0))
        return executable

    def launch(self, executable):
        assert self.cuda.cudaGraphLaunch(executable, self.stream) == 0
        return set(counts.read().errors)


@pytest.fixture
def runtime():
    runtime = Runtime()
    yield runtime
    runtime.cuda.cudaGetLastError()  # which forgets it: ONNX Runtime asks for it after each launch


def test_copies_are_counted_by_where_their_ends_are(runtime):
    device, host = runtime.device(), runtime.pinned()
    runtime.copy(device, host, H2D)
    runtime.copy(device, device, D2D)
    runtime.copy(host, device, D2H)
    runtime.copy(host, device, H2D)  # says otherwise
    assert counts.read().copies == {"H2D": 1, "D2D": 1, "D2H": 2}


def test_what_came_from_the_host_comes_back_and_what_was_computed_does_not(runtime):
    device, host = runtime.device(), runtime.pinned()
    ctypes.memset(host, 7, SIZE)
    runtime.copy(device, host, H2D)
    ctypes.memset(host, 0, SIZE)
    runtime.copy(host, device, D2H)
    assert ctypes.string_at(host, SIZE) == bytes([7]) * SIZE
    runtime.copy(device, device, D2D)
    for byte in (0, 1):
        counts.set_result(byte)
        runtime.copy(host, device, D2H)
        assert ctypes.string_at(host, SIZE) == bytes([byte]) * SIZE


def test_a_kept_graph_has_no_errors(runtime):
    device, host = runtime.device(), runtime.pinned()
    runtime.begin()
    assert runtime.copy(device, host, H2D) == 0
    executable = runtime.end()
    assert runtime.launch(executable) == set()
    counted = counts.read()
    assert counted.captured == {"copies": {"H2D": 1}}
    assert counted.graphs == {"capture": 1, "launch": 1}
    assert not counted.copies


def test_host_memory_overwritten_before_a_replay_is_found(runtime):
    device, host = runtime.device(), runtime.pinned()
    runtime.begin()
    runtime.copy(device, host, H2D)
    executable = runtime.end()
    ctypes.memset(host, 1, 1)
    assert runtime.launch(executable) == {"replay of host memory that was overwritten or freed"}


@pytest.mark.parametrize("what", ["device", "pinned"])
def test_memory_freed_before_a_replay_is_found(runtime, what):
    device, host = runtime.device(), runtime.pinned()
    runtime.begin()
    runtime.copy(device, device, D2D)
    executable = runtime.end()
    free = {"device": (runtime.cuda.cudaFree, device), "pinned": (runtime.cuda.cudaFreeHost, host)}
    function, address = free[what]
    assert function(address) == 0
    assert runtime.launch(executable) == {"replay after memory was freed"}


@pytest.mark.parametrize(
    "name", ["cudaMalloc", "cudaFree", "cudaDeviceSynchronize", "cudaStreamSynchronize"]
)
def test_what_could_wait_spoils_a_capture(runtime, name):
    device = runtime.device()
    address = ctypes.c_void_p()
    arguments = {
        "cudaMalloc": (ctypes.byref(address), ctypes.c_size_t(SIZE)),
        "cudaFree": (device,),
        "cudaDeviceSynchronize": (),
        "cudaStreamSynchronize": (runtime.stream,),
    }[name]
    runtime.begin()
    assert getattr(runtime.cuda, name)(*arguments) == UNSUPPORTED
    assert runtime.cuda.cudaGetLastError() == UNSUPPORTED
    assert runtime.end() == INVALIDATED
    counted = counts.read()
    assert counted.errors == {f"{name} while capturing": 1}
    assert not counted.graphs


def test_memory_that_is_not_allocated_cannot_be_freed(runtime):
    device = runtime.device()
    assert runtime.cuda.cudaFree(device) == 0
    assert runtime.cuda.cudaFree(device) != 0
    assert counts.read().errors == {"memory freed that is not allocated": 1}


def test_threads_may_allocate_at_the_same_time(runtime):
    def allocate_and_free(times):
        for _ in range(times):
            addresses = [runtime.device(1 << 16) for _ in range(4)]
            assert [runtime.cuda.cudaFree(address) for address in addresses] == [0] * 4

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(allocate_and_free, [200] * 4))
    counted = counts.read()
    assert counted.allocations == {"device": 4 * 200 * 4}
    assert not counted.errors


def test_what_is_not_modelled_is_an_error(runtime):
    assert runtime.cuda.cudaMemPoolTrimTo(None, 0) != 0
    assert counts.read().errors == {"cudaMemPoolTrimTo is not modelled": 1}
