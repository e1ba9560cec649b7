"""What is said of a CUDA that does not start, and its memory, with stand-ins for its libraries."""

import ctypes
import gc
import re
import threading
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.runtime import cuda, device
from bnlstm_deploy.runtime.device import Buffer, Captures, Device, pinned

ALL = ("libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcudnn.so.9")


def driver(*, status=0, version=13000, count=1):
    def write(value):
        def function(address):
            address._obj.value = value
            return 0

        return function

    return SimpleNamespace(
        cuInit=lambda _: status, cuDriverGetVersion=write(version), cuDeviceGetCount=write(count)
    )


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Set what libraries a machine has."""

    def have(*names, **others):
        found = dict.fromkeys(names, object()) | {
            k.replace("_so_", ".so."): v for k, v in others.items()
        }
        monkeypatch.setattr(cuda, "cuda_version", lambda: 13)
        monkeypatch.setattr(cuda, "_load", found.get)
        monkeypatch.setattr(cuda, "DEVICES", tmp_path)
        return tmp_path

    return have


@pytest.mark.parametrize(
    ("names", "of_driver", "message"),
    [
        (ALL[:3], driver(), r"libcudnn.so.9\. .*cuDNN 9.*pip install 'onnxruntime-gpu\[cuda"),
        ((*ALL[1:], "libcudart.so.12"), driver(), r"libcudart.so.13 \(version 12 is there\)"),
        ((*ALL[:3], "libcudnn.so.8"), driver(), r"libcudnn.so.9 \(version 8 is there\)"),
        (ALL, None, "no device /dev/nvidia.*install the NVIDIA driver.*--gpus all"),
        (ALL, driver(version=12040), "up to 12.4 .* built for CUDA 13: install a newer"),
        (ALL, driver(status=100), "no GPU: look at nvidia-smi and CUDA_VISIBLE"),
        (ALL, driver(status=999), "does not start \\(cuInit gives 999\\)"),
        (ALL, driver(count=0), "shows no GPU"),
        (ALL, object(), "not that of an NVIDIA driver"),
        (ALL, driver(), "log says more"),
    ],
)
def test_what_is_missing_is_named(machine, names, of_driver, message):
    machine(*names, libcuda_so_1=of_driver)
    assert re.search(message, cuda.explain_missing_cuda())


def test_a_device_without_its_driver_is_named(machine):
    (machine(*ALL) / "nvidia0").touch()
    assert "there is a device /dev/nvidia*" in cuda.explain_missing_cuda()


def test_all_that_is_missing_is_named_at_once(machine):
    machine()
    text = cuda.explain_missing_cuda()
    for name in (*ALL, "libcuda.so.1"):
        assert name in text


def test_this_machine_gets_an_explanation():
    assert cuda.explain_missing_cuda()
    assert cuda.cuda_version() >= 12


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (ALL, None),
        (ALL[:3], {"cuda": False, "cudnn": True}),
        (ALL[3:], {"cuda": True, "cudnn": False}),
        ((), {"cuda": True, "cudnn": True}),
    ],
)
def test_only_what_the_loader_does_not_find_is_preloaded(
    machine, names, called, monkeypatch, capsys
):
    machine(*names)
    calls = []

    def preload(*, cuda, cudnn, msvc):
        assert not msvc
        print("Failed to load")
        calls.append({"cuda": cuda, "cudnn": cudnn})
        raise RuntimeError

    monkeypatch.setattr(ort, "preload_dlls", preload, raising=False)
    cuda.preload()
    assert calls == ([called] if called else [])
    assert not capsys.readouterr().out


class Runtime:
    """A CUDA runtime whose pinned memory is a ctypes array."""

    def __init__(self, status=0):
        self.status, self.freed, self.device = status, 0, None
        self.memory = (ctypes.c_byte * 1024)(*([1] * 1024))

    def cudaSetDevice(self, number):  # noqa: N802
        self.device = number
        return 0

    def cudaMallocHost(self, address, size):  # noqa: N802
        assert size.value <= len(self.memory)
        address._obj.value = ctypes.addressof(self.memory)
        return self.status

    def cudaFreeHost(self, address):  # noqa: N802
        assert address.value == ctypes.addressof(self.memory)
        self.freed += 1


def test_pinned_memory_is_freed_with_its_last_view(monkeypatch):
    runtime = Runtime()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: runtime)
    array = pinned((3, 4), np.dtype(np.float32), 1)
    assert runtime.device == 1
    assert (array.shape, array.dtype, array.any()) == ((3, 4), np.float32, False)
    view = array[1:]
    del array
    gc.collect()
    assert runtime.freed == 0
    del view
    gc.collect()
    assert runtime.freed == 1


def test_pinned_memory_that_is_not_there_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Runtime(status=2))
    with pytest.raises(RuntimeSessionError, match=r"48 bytes of pinned.*\(error 2\).*fewer"):
        pinned((3, 4), np.dtype(np.float32), 0)

    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(RuntimeSessionError, match=r"libcudart.so.* cannot be loaded"):
        pinned((3, 4), np.dtype(np.float32), 0)


class Value:
    """An OrtValue, whose memory is its own on a device and numpy's on the CPU."""

    def __init__(self, array, kind):
        self.kind = kind
        self.memory = array if kind == "cpu" else array.copy()

    @classmethod
    def ortvalue_from_numpy(cls, array, kind="cpu", number=0):
        assert number == (1 if kind == "cuda" else 0)
        return cls(array, kind)

    def update_inplace(self, source):
        np.copyto(self.memory, source.memory if isinstance(source, Value) else source)


@pytest.mark.parametrize("staged", [False, True])
def test_a_buffer_copies_to_and_from_the_device(monkeypatch, staged):
    made = []

    def make(shape, dtype, number):
        made.append(number)
        return np.zeros(shape, dtype)

    monkeypatch.setattr(device, "pinned", make)
    monkeypatch.setattr(ort, "OrtValue", Value)
    buffer = Buffer((2, 3), np.dtype(np.float32), Device("cuda", 1), staged=staged)
    assert made == ([1] if staged else [])
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    buffer.write(array)
    np.testing.assert_array_equal(buffer.value.memory, array)
    buffer.write(array[:1, :2])
    np.testing.assert_array_equal(buffer.value.memory, [[0, 1, 0], [0, 0, 0]])
    buffer.value.memory[...] = 5
    copy = buffer.read((1, 3))
    buffer.value.memory[...] = 6
    np.testing.assert_array_equal(copy, [[5, 5, 5]])


def test_a_capture_is_alone():
    captures = Captures()
    log, inside = [], threading.Event()

    def use(name):
        with captures.use():
            inside.set()
            log.append(name)

    with captures.use():
        other = threading.Thread(target=use, args=("side by side",))
        other.start()
        other.join(10)
    assert log == ["side by side"]

    def capture():
        with captures.capture():
            log.append("capture")

    with captures.use():
        waiting = threading.Thread(target=capture)
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
        log.append("used")
    waiting.join(10)
    with captures.capture():
        user = threading.Thread(target=use, args=("after",))
        user.start()
        user.join(0.05)
        log.append("captured")
    user.join(10)
    assert log == ["side by side", "used", "capture", "captured", "after"]
