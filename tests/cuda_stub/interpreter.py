"""Computes what the stub driver launches, by Triton's interpreter on the stub's memory."""

import ctypes
import os
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from tests.cuda_stub.counts import runtime
from tools.cuda_kernels import INTEGERS, KINDS, OPERANDS, OUTPUT, POINTERS, Built, read

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Launch:
    """A launch as the driver got it: the kernel, and its arguments by name."""

    def __init__(self, built: Built, grid: tuple[int, int], arguments: int):
        from bnlstm_deploy.native.cuda import kernels

        self.built = built
        self.grid = grid
        self.function: Any = getattr(kernels, built.kernel.partition(" ")[0])
        operand, precision = KINDS[built.kind]
        constants = {
            "PRECISION": precision,
            "UNIT": built.unit,
            "FEATURE": built.feature,
            **built.tiles,
        }
        names = self.function.arg_names
        self.constants = {name: constants[name] for name in names if name in constants}
        self.arguments: dict[str, Any] = {}
        given = [name for name in names if name not in constants]
        addresses = (ctypes.c_uint64 * len(given)).from_address(arguments)
        for address, name in zip(addresses, given, strict=True):
            if name in POINTERS:
                element = TYPES[operand] if name in OPERANDS else torch.float32
                element = torch.int64 if name in INTEGERS else element
                pointer = ctypes.c_uint64.from_address(address).value
                self.arguments[name] = _tensor(pointer, element)
            else:
                self.arguments[name] = ctypes.c_int32.from_address(address).value

    def compute(self) -> None:
        """Run all its blocks, one after the other."""
        self.function[self.grid](**self.arguments, **self.constants)


def _tensor(address: int, element: torch.dtype) -> torch.Tensor:
    """A tensor of one element, of which the kernel takes the address alone."""
    if not address:  # never read: see kernels.py
        return torch.zeros(1, dtype=element)
    bytes_ = (ctypes.c_char * element.itemsize).from_address(address)
    return torch.frombuffer(bytes_, dtype=element)


@cache
def _built(code: int) -> Built:
    """Which kernel is at an address."""
    facts, kernels = read()
    with zipfile.ZipFile(OUTPUT) as archive:
        for entry, built in zip(facts["kernels"], kernels, strict=True):
            for name in (f"{entry['file']}.cubin", f"{entry['file']}.ptx"):
                if name in archive.namelist():
                    content = archive.read(name)
                    if ctypes.string_at(code, len(content)) == content:
                        return built
    raise ValueError("the driver got code that is not in kernels.zip")


@contextmanager
def computing() -> Iterator[list[Launch]]:
    """Compute launches of the block, and replays of graphs that it captures; yield the launches."""
    launches: list[Launch] = []
    lock = threading.Lock()

    def record(code: int, grid: int, arguments: int) -> int:
        x, y = (ctypes.c_uint32 * 2).from_address(grid)
        with lock:
            launches.append(Launch(_built(code), (x, y), arguments))
            return len(launches)

    def compute(number: int) -> None:
        with lock:  # the interpreter is for one thread
            launches[number - 1].compute()

    address = ctypes.c_void_p
    recorder = ctypes.CFUNCTYPE(ctypes.c_int, address, address, address)(record)
    computer = ctypes.CFUNCTYPE(None, ctypes.c_int)(compute)
    driver = ctypes.CDLL("libcuda.so.1")
    driver.stub_set_recorder(recorder)
    runtime().stub_set_computer(computer)
    try:
        yield launches
    finally:
        driver.stub_set_recorder(None)
        runtime().stub_set_computer(None)
