"""Runs files with every freed piece of the CPU's memory given back at once, and overwritten.

    MALLOC_PERTURB_=165 python -m tests.cuda_stub.freed FILE...

It prints the files that fail, a line each: MALLOC_PERTURB_ is read when a process starts.
"""

import sys
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

RUNS = 4
TIME, BATCH = 6, 5


def run(path: str) -> None:
    """Run a file without and with lengths.

    Raises:
        Exception: ONNX Runtime fails, whose exceptions have no common base.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False  # which keeps what is freed, and as it is
    session = ort.InferenceSession(path, options, ["CUDAExecutionProvider", "CPUExecutionProvider"])
    sizes = {"time": TIME, "batch": BATCH}
    shape = [sizes.get(size, size) for size in session.get_inputs()[0].shape]
    feeds = {"input": np.zeros(shape, np.float32)}
    for _ in range(RUNS):
        session.run(None, feeds)
        session.run(None, feeds | {"lengths": np.arange(BATCH)})


def main(paths: Sequence[str]) -> None:
    """Run files, and print those that fail."""
    for path in paths:
        try:
            run(path)
        except Exception as error:
            print(f"{path}: {str(error)[-100:].strip()}")


if __name__ == "__main__":
    main(sys.argv[1:])
