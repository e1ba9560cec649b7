"""The native kernel in a session: whether it runs, and for which instruction set."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import onnxruntime as ort

from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.native import available, library_path

VARIABLE = "BNLSTM_DEPLOY_NATIVE"
"""What must be had, or it is an error: an instruction set, or `cuda`. `0` is for the function body;
unset, empty or `1`: the best there is."""

BEST = ("", "1")

ON_CUDA = "cuda"
"""What the native kernel is called on GPUs, in place of an instruction set."""

INSTRUCTION_SETS = ("baseline", "avx2", "avx512", "neon")
"""All that a library may have, those of one CPU in order, the best last."""

PROVIDER, THREADS, TF32 = "bnlstm.provider", "bnlstm.intra_op_num_threads", "bnlstm.use_tf32"
"""The session's configuration entries that tell the library what to register."""

LOGGER = logging.getLogger("bnlstm_deploy.runtime")

_environment = threading.RLock()
"""Held while VARIABLE is changed, and while the library reads it."""


@dataclass(frozen=True)
class Native:
    """What computes the recurrent layers of a session. It is true if that is the native kernel."""

    instruction_set: str | None
    """That which the native kernel runs on, or `cuda`; None for the file's function body."""
    reason: str = ""
    """Why it is the function body."""

    def __bool__(self) -> bool:
        return self.instruction_set is not None

    @property
    def on_cuda(self) -> bool:
        """Whether it runs on a GPU."""
        return self.instruction_set == ON_CUDA

    def __str__(self) -> str:
        """Return the kernel, and why that one."""
        if self.instruction_set is None:
            return f"function body: {self.reason}"
        return f"native kernel ({self.instruction_set})"


def register(options: ort.SessionOptions, threads: int | None) -> Native:
    """Register the native kernel with the options of a session on the CPU.

    Where there is no library that works, the options are left as they are: one line of the log and
    the result say so.

    Args:
        options: Of the session.
        threads: Its `intra_op_num_threads`; None for ONNX Runtime's default.

    Raises:
        RuntimeSessionError: BNLSTM_DEPLOY_NATIVE names an instruction set that cannot be had.
    """
    with _environment:
        named = os.environ.get(VARIABLE, "")
        best = named in {*BEST, ON_CUDA}
        entries = {PROVIDER: "cpu"} | ({} if threads is None else {THREADS: str(threads)})
        return _register(options, entries, None if best else named)


def register_cuda(options: ort.SessionOptions, *, tf32: bool) -> Native:
    """Register the native kernel for GPUs with the options of a session on CUDA.

    Args:
        options: Of the session.
        tf32: Whether products of float32 may be in TF32.

    Raises:
        RuntimeSessionError: BNLSTM_DEPLOY_NATIVE is `cuda`, and there is no driver or no library
            that works. Whether the GPU can run the kernel, and the file's dtype, shows only when
            the session is opened.
    """
    with _environment:
        entries = {PROVIDER: ON_CUDA, TF32: str(int(tf32))}
        return _register(options, entries, ON_CUDA if demands_cuda() else None, on=ON_CUDA)


def demands_cuda() -> bool:
    """Return whether BNLSTM_DEPLOY_NATIVE says that a session on CUDA must have the kernel."""
    return os.environ.get(VARIABLE) == ON_CUDA


def _register(
    options: ort.SessionOptions,
    entries: Mapping[str, str],
    demanded: str | None,
    on: str | None = None,
) -> Native:
    if os.environ.get(VARIABLE) == "0":
        return Native(None, f"{VARIABLE}=0")
    try:
        path = library_path()
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        options.register_custom_ops_library(str(path))
        return Native(on or demanded or _best(path))
    except Exception as error:  # onnxruntime's exceptions have no common base
        reason = str(error).strip()
        if demanded is not None:
            raise RuntimeSessionError(
                f"{VARIABLE}={demanded}: the native kernel cannot be used: {reason}"
            ) from error
        if not isinstance(error, RuntimeSessionError):
            reason = f"the native kernel's library {path} cannot be used: {reason}"
        if available():  # where there is none, that is no news
            warn(reason)
        return Native(None, reason)


def warn(reason: str) -> None:
    """Say in the log that a function body runs where the native kernel was to."""
    LOGGER.warning("the function body runs in place of the native kernel: %s", reason)


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets that the native kernel can use on this machine, the best last.

    There are none where it is not installed or its library does not work.
    """
    try:
        return _usable(library_path())
    except RuntimeSessionError:
        return ()


@contextlib.contextmanager
def choosing(instruction_set: str) -> Iterator[None]:
    """Set BNLSTM_DEPLOY_NATIVE, for the sessions that this thread opens; others wait."""
    with _environment:
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = instruction_set
        try:
            yield
        finally:
            if before is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = before


def _best(path: Path) -> str:
    """Return the instruction set that the library takes by itself."""
    return _usable(path)[-1]


@lru_cache
def _usable(path: Path) -> tuple[str, ...]:
    """Return the instruction sets for which the library registers."""
    usable = []
    for name in INSTRUCTION_SETS:
        with choosing(name), contextlib.suppress(Exception):  # for want of a common base
            ort.SessionOptions().register_custom_ops_library(str(path))
            usable.append(name)
    return tuple(usable)
