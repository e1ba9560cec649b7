"""A graph that runs in a process of its own, so that its crash is a result and not the end."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from bnlstm_deploy.errors import BnlstmError, RuntimeSessionError
from bnlstm_deploy.metadata import Metadata
from bnlstm_deploy.runtime.kernel import VARIABLE
from bnlstm_deploy.runtime.providers import Provider
from bnlstm_deploy.runtime.worker import FACTS
from bnlstm_deploy.signature import Array, Signature, Value


class Graph(Protocol):
    """What the check needs of a graph: a `Session`, or one in another process."""

    metadata: Metadata
    signature: Signature
    inputs: tuple[Value, ...]
    state_inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    state_outputs: tuple[Value, ...]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph: arrays by input name to arrays by output name."""
        ...

    def run_unchecked(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph on what it takes and `run` refuses."""
        ...


class GraphProcess(Graph):
    """A `Session` in a process of its own, which `close` ends.

    It opens the file while others do: what it says of the file is there after `wait`.

    Args:
        path: The ONNX file.
        provider: The one execution provider to use.
        instruction_set: That of the native kernel; None for the function body.

    Attributes:
        native: Whether the native kernel runs.
    """

    def __init__(
        self, path: str | Path, provider: Provider, instruction_set: str | None = None
    ) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        if instruction_set is not None:
            environment[VARIABLE] = instruction_set
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bnlstm_deploy.runtime.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0 if os.name == "posix" else None,  # an interrupt is for this process
        )
        self._send((str(path), provider, instruction_set is not None))

    def wait(self) -> None:
        """Wait until the file is open.

        Raises:
            RuntimeSessionError: The file or the provider cannot be used, or the process ended.
        """
        facts = self._receive()
        self.metadata, self.signature, self.native = (facts[name] for name in FACTS)
        signature = self.signature
        self.inputs, self.state_inputs = signature.inputs, signature.state_inputs
        self.outputs, self.state_outputs = signature.outputs, signature.state_outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph: arrays by input name to arrays by output name.

        Raises:
            RuntimeSessionError: The graph failed, or crashed its process.
            InputError: The arrays do not fit the graph.
        """
        return self._run(feeds, checked=True)

    def run_unchecked(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph on what it takes and `run` refuses.

        Raises:
            RuntimeSessionError: The graph failed, or crashed its process.
        """
        return self._run(feeds, checked=False)

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

    def _run(self, feeds: Mapping[str, Array], *, checked: bool) -> dict[str, Array]:
        self._send((dict(feeds), checked))
        results: dict[str, Array] = self._receive()
        return results

    def _send(self, request: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # why it ended is for the one who receives
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            answer = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
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
