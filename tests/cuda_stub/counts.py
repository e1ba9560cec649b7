"""What the stub libraries counted, read through ctypes."""

import ctypes
from collections import Counter
from dataclasses import dataclass, field
from functools import cache

Names = Counter[str]


@dataclass(frozen=True)
class Counts:
    """Events since the last reset, by name.

    What is recorded while a stream is captured is not done, and counts as captured only; a replay
    is one launch of a graph, whatever is in it.
    """

    kernels: Names = field(default_factory=Counter)
    """Launches of kernels, ONNX Runtime's own and those of cuBLAS that are no products."""
    gemms: Names = field(default_factory=Counter)
    """Matrix products of cuBLAS; each is at least one kernel on a GPU."""
    rnns: Names = field(default_factory=Counter)
    """Calls of cuDNN's recurrent networks, for all timesteps at once."""
    copies: Names = field(default_factory=Counter)
    """By where their ends are: H2D, D2H, D2D."""
    memsets: Names = field(default_factory=Counter)
    syncs: Names = field(default_factory=Counter)
    """Waits of the CPU for the device."""
    graphs: Names = field(default_factory=Counter)
    """`capture` and `launch`."""
    allocations: Names = field(default_factory=Counter)
    """Of `device` and of pinned `host` memory; what ONNX Runtime's pools hold already is none."""
    hosts: Names = field(default_factory=Counter)
    """Functions of the host that were put into a stream."""
    captured: dict[str, Names] = field(default_factory=dict)
    """What was recorded, by the names of the fields above."""
    libraries: Names = field(default_factory=Counter)
    """Of kernels that the driver loaded: `cubin` and `PTX`."""
    errors: Names = field(default_factory=Counter)
    """What CUDA forbids, what the stubs do not model, and replays of memory that is gone."""


FIELDS = {
    "kernel": "kernels",
    "gemm": "gemms",
    "rnn": "rnns",
    "copy": "copies",
    "memset": "memsets",
    "sync": "syncs",
    "graph": "graphs",
    "allocation": "allocations",
    "host": "hosts",
    "library": "libraries",
    "error": "errors",
}
"""The stubs' categories, which `captured` may precede."""


@cache
def runtime() -> ctypes.CDLL:
    """Return the stub CUDA runtime that the process runs with.

    Raises:
        RuntimeError: It runs with another one, or with none.
    """
    try:
        library = ctypes.CDLL("libcudart.so.13")
    except OSError as error:
        raise RuntimeError("LD_LIBRARY_PATH has no folder with the stub libraries") from error
    if not hasattr(library, "stub_report"):
        raise RuntimeError("libcudart.so.13 is CUDA's own; put the stubs first in LD_LIBRARY_PATH")
    library.stub_report.restype = ctypes.c_size_t
    library.stub_report.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    return library


def reset() -> None:
    """Forget what was counted."""
    runtime().stub_reset()


def set_result(byte: int) -> None:
    """Set the value of the bytes that results of kernels have where they are copied back."""
    runtime().stub_set_result(byte)


def read() -> Counts:
    """Return what was counted since the last reset."""
    report = runtime().stub_report
    text = ctypes.create_string_buffer(report(None, 0) + 1)
    report(text, len(text))
    counts = Counts()
    for line in text.value.decode().splitlines():
        category, name, count = line.split("\t")
        what = FIELDS[category.removeprefix("captured ")]
        captured = category.startswith("captured ")
        names = counts.captured.setdefault(what, Counter()) if captured else getattr(counts, what)
        names[name] = int(count)
    return counts
