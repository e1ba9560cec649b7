"""Memory that a session reads and writes, on its device and on the host."""

import contextlib
import ctypes
import math
import threading
import weakref
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import onnxruntime as ort

from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.runtime.cuda import cuda_version, explain_missing_cuda
from bnlstm_deploy.runtime.provider_options import CUDA, TENSORRT
from bnlstm_deploy.runtime.providers import Resolved
from bnlstm_deploy.signature import Array


class Device(NamedTuple):
    """Where a session's first provider has its memory."""

    kind: str
    """`cpu` or `cuda`, as ONNX Runtime calls them."""
    id: int

    @classmethod
    def of(cls, providers: Resolved) -> "Device":
        """Return the device of the first of several providers."""
        name, options = providers[0]
        if name in (CUDA, TENSORRT):
            return cls("cuda", int(options.get("device_id", 0)))
        return cls("cpu", 0)


class Buffer:
    """An array at a fixed address of the device.

    On the CPU the host's array is the device's. Elsewhere a *staged* buffer has one in pinned
    memory, which the device copies from and to without the driver's help.

    Args:
        shape: Shape of the array.
        dtype: Its dtype.
        device: Where it is.
        staged: Whether it is copied at every run.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[np.generic],
        device: Device,
        *,
        staged: bool = True,
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._on_host = device.kind == "cpu"
        if self._on_host or not staged:
            self._host: Array = np.zeros(shape, dtype)
        else:
            self._host = pinned(shape, dtype, device.id)
        self._host_value = ort.OrtValue.ortvalue_from_numpy(self._host)
        if self._on_host:
            self.value = self._host_value
        else:
            self.value = ort.OrtValue.ortvalue_from_numpy(self._host, device.kind, device.id)

    def write(self, array: Array) -> None:
        """Write an array of this shape, or a smaller one followed by zeros on each axis."""
        if array.shape != self.shape:
            self._host[...] = 0
        self._host[tuple(map(slice, array.shape))] = array
        if not self._on_host:
            self.value.update_inplace(self._host)

    def read(self, shape: tuple[int, ...] | None = None) -> Array:
        """Return a copy of the array, or of the part of that shape at its beginning."""
        if not self._on_host:
            try:
                self._host_value.update_inplace(self.value)
            except TypeError:  # older versions only return a new array
                np.copyto(self._host, self.value.numpy())
        return self._host[tuple(map(slice, shape or self.shape))].copy()


def pinned(shape: tuple[int, ...], dtype: np.dtype[np.generic], device_id: int) -> Array:
    """Return zeros in memory that stays where it is, so that the device can copy from and to it.

    ONNX Runtime's Python API makes memory of devices and of numpy, and none of this kind.

    Raises:
        RuntimeSessionError: CUDA has no memory of this kind left, or is not there.
    """
    name = f"libcudart.so.{cuda_version()}"
    try:
        runtime = ctypes.CDLL(name)
    except OSError as error:
        raise RuntimeSessionError(f"{name} cannot be loaded. {explain_missing_cuda()}") from error
    size = math.prod(shape) * dtype.itemsize
    address = ctypes.c_void_p()
    status = runtime.cudaSetDevice(device_id)
    status = status or runtime.cudaMallocHost(ctypes.byref(address), ctypes.c_size_t(size))
    if status or address.value is None:
        raise RuntimeSessionError(
            f"CUDA cannot allocate {size} bytes of pinned host memory (error {status}); use fewer "
            "or smaller buckets"
        )
    memory = (ctypes.c_byte * size).from_address(address.value)
    weakref.finalize(memory, runtime.cudaFreeHost, address).atexit = False
    array: Array = np.frombuffer(memoryview(memory), dtype).reshape(shape)
    array[...] = 0
    return array


class Captures:
    """Keeps a capture of a CUDA graph and all other use of CUDA apart.

    ONNX Runtime captures in the mode in which an allocation or a copy of any thread of the process
    spoils the capture. So does a use of CUDA that does not pass here.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._capturing = False

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """Wait until nothing is captured, and keep it so."""
        with self._changed:
            self._changed.wait_for(lambda: not self._capturing)
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        """Wait until nobody uses CUDA, and keep it so."""
        with self._changed:
            self._changed.wait_for(lambda: not self._capturing)
            self._capturing = True  # from here on no new users
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._users == 0)
            yield
        finally:
            with self._changed:
                self._capturing = False
                self._changed.notify_all()


CAPTURES = Captures()
"""Of this process."""


def using(device: Device, *, capture: bool = False) -> contextlib.AbstractContextManager[None]:
    """Return the context in which a device is used, or a graph of it captured."""
    if device.kind == "cpu":
        return contextlib.nullcontext()
    return CAPTURES.capture() if capture else CAPTURES.use()
