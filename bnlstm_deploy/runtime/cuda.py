"""What is there of CUDA: its libraries, its driver, and why it does not start."""

import contextlib
import ctypes
import functools
import io
import re
from pathlib import Path

import onnxruntime as ort

BUILT_FOR = 13
"""The CUDA version of an onnxruntime that does not say."""

CUDNN = ("libcudnn", 9)

DEVICES = Path("/dev")
NO_DEVICE = 100
"""The driver's own error code."""


@functools.cache
def cuda_version() -> int:
    """Return the major version of CUDA that the onnxruntime installed is built for."""
    with contextlib.suppress(ImportError):
        from onnxruntime.capi import build_and_package_info as info  # noqa: PLC0415

        found = re.match(r"\d+", getattr(info, "cuda_version", ""))
        if found:
            return int(found[0])
    return BUILT_FOR


def libraries() -> tuple[tuple[str, int], ...]:
    """Return the shared libraries that the CUDA provider needs, with their versions."""
    cuda = cuda_version()
    return (("libcudart", cuda), ("libcublas", cuda), ("libcublasLt", cuda), CUDNN)


def missing() -> list[str]:
    """Return the shared libraries that cannot be loaded, by file name."""
    names = [f"{name}.so.{version}" for name, version in libraries()]
    return [name for name in names if _load(name) is None]


def preload() -> None:
    """Load the CUDA libraries that pip installed, if the system's loader does not find any.

    Those that it finds are left alone: they may have been put first on purpose.
    """
    absent = missing()
    cudnn = any(name.startswith(CUDNN[0]) for name in absent)
    cuda = len(absent) > cudnn
    # What is still missing afterwards is reported where a provider does not start.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        if absent and hasattr(ort, "preload_dlls"):
            ort.preload_dlls(cuda=cuda, cudnn=cudnn, msvc=False)


def explain_missing_cuda() -> str:
    """Return, in sentences, what keeps CUDA from starting here and what to install.

    Looked at are the shared libraries, the driver with its version, and the devices.
    """
    found = problems() or [
        "Its libraries can be loaded and the driver is new enough; ONNX Runtime's log says more, "
        "and so may nvidia-smi."
    ]
    return " ".join(found)


def problems() -> list[str]:
    """Return what keeps CUDA from starting here, a sentence or two for each thing found."""
    return [*_missing_libraries(), *_driver()]


def _missing_libraries() -> list[str]:
    problems = []
    for name, version in libraries():
        if _load(f"{name}.so.{version}") is not None:
            continue
        others = [v for v in range(version + 1, version - 3, -1) if _load(f"{name}.so.{v}")]
        other = f" (version {others[0]} is there)" if others else ""
        problems.append(f"{name}.so.{version}{other}")
    if not problems:
        return []
    return [
        f"These libraries cannot be loaded: {', '.join(problems)}. This onnxruntime needs CUDA "
        f"{cuda_version()} and cuDNN {CUDNN[1]}; install them with: pip install "
        "'onnxruntime-gpu[cuda,cudnn]', or put the folder with them into LD_LIBRARY_PATH."
    ]


def _driver() -> list[str]:
    driver = _load("libcuda.so.1")
    if driver is None:
        found = "a" if any(DEVICES.glob("nvidia[0-9]*")) else "no"
        return [
            f"The driver's libcuda.so.1 cannot be loaded, and there is {found} device "
            "/dev/nvidia*: install the NVIDIA driver; a container needs --gpus all."
        ]
    if not hasattr(driver, "cuInit"):
        return ["libcuda.so.1 is not that of an NVIDIA driver: look at LD_LIBRARY_PATH."]
    status = driver.cuInit(0)
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    major, minor = version.value // 1000, version.value % 1000 // 10
    if 0 < major < cuda_version():
        return [
            f"The driver supports CUDA up to {major}.{minor} and this onnxruntime is built for "
            f"CUDA {cuda_version()}: install a newer NVIDIA driver."
        ]
    if status == NO_DEVICE:
        return [
            "The driver finds no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES; a container "
            "needs --gpus all."
        ]
    if status != 0:
        return [f"The driver does not start (cuInit gives {status}): look at nvidia-smi."]
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    if count.value == 0:
        return ["The driver shows no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES."]
    return []


def _load(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None
