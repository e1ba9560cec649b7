"""Opens an exported file on everything that it is to be checked on."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto

from bnlstm_deploy.atomic import scratch
from bnlstm_deploy.dtypes import NATIVE
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.runtime.kernel import ON_CUDA, VARIABLE, choosing, instruction_sets
from bnlstm_deploy.runtime.providers import Provider
from bnlstm_deploy.verification.measuring.backend import Backend
from bnlstm_deploy.verification.measuring.process import Graph, GraphProcess

BEST, NONE = "1", "0"
"""Values of the variable that name no instruction set."""


@dataclass(frozen=True)
class Graphs:
    """An exported file, open."""

    by_backend: dict[Backend, Graph]
    """The function body on each provider, and each native kernel on the CPU and on CUDA."""
    no_native: str
    """Why one has no native kernel; empty if each has that could."""


@contextlib.contextmanager
def opened(
    path: Path, providers: Sequence[Provider], *, no_native: str, isolated: bool
) -> Iterator[Graphs]:
    """Open a file with the function body on each provider, and each native kernel on CPU and CUDA.

    Those on the CPU are those for the instruction sets of this CPU, or the one that
    BNLSTM_DEPLOY_NATIVE names; `0` is for none.

    Args:
        path: The ONNX file.
        providers: Execution providers.
        no_native: Why the native kernel is not to be opened; empty if it is.
        isolated: Whether each graph runs in a process of its own.

    Raises:
        RuntimeSessionError: The file or a provider cannot be used, or an instruction set was named
            that cannot be had.
    """
    wanted: dict[Backend, tuple[Provider, str | None]] = {}
    has_native = False
    for provider in providers:
        name = provider if isinstance(provider, str) else provider[0]
        wanted[Backend(name)] = (provider, None)
        if name not in NATIVE:
            continue
        has_native = True
        if not no_native and os.environ.get(VARIABLE) == NONE:
            no_native = f"{VARIABLE}={NONE}"
        if not no_native:
            if name == ON_CUDA:
                wanted[Backend.native(name, ON_CUDA)] = (provider, BEST)
                continue
            for instruction_set in _instruction_sets():
                wanted[Backend.native(name, instruction_set)] = (provider, instruction_set)
    with contextlib.ExitStack() as stack:
        graphs: dict[Backend, Graph] = {}
        opening = _isolated(stack, path, wanted) if isolated else _here(path, wanted)
        for backend, graph in opening:
            if backend.instruction_set is None or graph.native:
                graphs[backend] = graph
            else:
                no_native = graph.native.reason
        yield Graphs(graphs, no_native if has_native else "")


@contextlib.contextmanager
def opening_copies(*, isolated: bool) -> Iterator[Callable[[ModelProto], Graph]]:
    """Yield a function that opens a changed copy of a file on the CPU, as its function body.

    Args:
        isolated: Whether each runs in a process of its own.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch())

        def open_copy(proto: ModelProto) -> Graph:
            path = folder / "copy.onnx"
            onnx.save(proto, path)
            if not isolated:
                return Session(path, native=False)
            process = GraphProcess(path, "cpu")
            stack.callback(process.close)
            process.wait()
            return process

        yield open_copy


def _instruction_sets() -> Sequence[str]:
    chosen = os.environ.get(VARIABLE, BEST)
    if chosen not in {BEST, ON_CUDA}:
        return [chosen]
    # Where there is none, a session says why.
    return instruction_sets() or [BEST]


def _here(
    path: Path, wanted: dict[Backend, tuple[Provider, str | None]]
) -> Iterator[tuple[Backend, Session]]:
    for backend, (provider, instruction_set) in wanted.items():
        if instruction_set is None:
            yield backend, Session(path, providers=(provider,), native=False)
        else:
            with choosing(instruction_set):
                yield backend, Session(path, providers=(provider,))


def _isolated(
    stack: contextlib.ExitStack, path: Path, wanted: dict[Backend, tuple[Provider, str | None]]
) -> Iterator[tuple[Backend, GraphProcess]]:
    processes = {}
    for backend, (provider, instruction_set) in wanted.items():
        processes[backend] = GraphProcess(path, provider, instruction_set)
        stack.callback(processes[backend].close)
    for backend, process in processes.items():  # by now all of them are at it
        process.wait()
        yield backend, process
