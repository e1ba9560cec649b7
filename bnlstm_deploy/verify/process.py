"""A graph that runs in a process of its own, so that its crash is a result and not the end."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from bnlstm_deploy.errors import BnlstmError, RuntimeSessionError
from bnlstm_deploy.metadata import Metadata
from bnlstm_deploy.runtime.inputs import Array, Value
from bnlstm_deploy.runtime.providers import Provider


class Graph(Protocol):
    """What the check needs of a graph: a `Session`, or one in another process."""

    metadata: Metadata
    inputs: tuple[Value, ...]
    state_inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    state_outputs: tuple[Value, ...]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph: arrays by input name to arrays by output name."""
        ...


class GraphProcess:
    """A `Session` in a process of its own; a context manager that ends it.

    Args:
        path: The ONNX file.
        provider: The one execution provider to use.

    Raises:
        RuntimeSessionError: The file or the provider cannot be used, or the process ended.
    """

    def __init__(self, path: str | Path, provider: Provider) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bnlstm_deploy.runtime.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        try:
            facts = self._ask((str(path), provider))
        except RuntimeSessionError:
            self.close()
            raise
        self.metadata: Metadata = facts["metadata"]
        self.inputs: tuple[Value, ...] = facts["inputs"]
        self.state_inputs: tuple[Value, ...] = facts["state_inputs"]
        self.outputs: tuple[Value, ...] = facts["outputs"]
        self.state_outputs: tuple[Value, ...] = facts["state_outputs"]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph: arrays by input name to arrays by output name.

        Raises:
            RuntimeSessionError: The graph failed, or crashed its process.
            InputError: The arrays do not fit the graph.
        """
        results: dict[str, Array] = self._ask(dict(feeds))
        return results

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> "GraphProcess":
        """Return the graph."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the process."""
        self.close()

    def _ask(self, request: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            code = self._process.wait()
            raise RuntimeSessionError(f"the graph's process {_ending(code)}") from None
        if isinstance(answer, BnlstmError):
            raise answer
        assert isinstance(answer, dict)
        return answer


def _ending(code: int) -> str:
    if code < 0:
        return f"crashed with {signal.Signals(-code).name}"
    return f"ended with status {code}"
