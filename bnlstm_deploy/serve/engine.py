"""Engine: one model of a server, which many ask at a time."""

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnlstm_deploy.errors import BnlstmError, InputError
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.runtime.providers import Provider
from bnlstm_deploy.serve.batcher import Batcher, Request
from bnlstm_deploy.serve.bindings import Bindings
from bnlstm_deploy.serve.limits import Limits
from bnlstm_deploy.serve.merger import Merger, Size
from bnlstm_deploy.serve.sequences import Chunk, Sequences
from bnlstm_deploy.serve.stats import RECENT, Durations, Execution, Stats
from bnlstm_deploy.signature import Array

KEPT = 32 * 2**20
"""Bytes of a run up to which its memory is kept for the next one."""


@dataclass(frozen=True)
class _Ask:
    """What is to be computed for one request."""

    feeds: dict[str, Array]
    size: Size
    """N and the T that was asked for, before padding."""
    outputs: frozenset[str]
    chunk: Chunk | None


class Engine:
    """Answers requests for one exported file, several of them in a run.

    Requests are whole sequences, of any lengths; chunks of streams whose state the client sends
    and gets back (`initial_h`, `initial_c`, `start_step`; `h_n`, `c_n`, `next_step`); or chunks of
    sequences whose state the engine holds. All of them share runs. A request's outputs do not
    depend on what runs with it, but for rounding: ONNX Runtime's matrix products add up in another
    order for other numbers of rows. The tests allow 4e-7 of outputs up to 1, some ULP of float32.

    Args:
        path: The ONNX file.
        name: The model's; the file's stem by default.
        version: The model's.
        providers: As Session takes them.
        threads: Threads inside an operator.
        native: Whether the native kernel runs, where it can.
        limits: What it takes on.

    Attributes:
        inputs: The model's own, then the optional ones.
        optional: The names of those that may be left out.
        outputs: The model's own, then final states and next steps.
        native: Whether the native kernel runs.
        ready: Whether `warm_up` is done.
        sequences: The states that it holds.

    Raises:
        RuntimeSessionError: The file or a provider cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        version: str = "1",
        providers: Sequence[Provider] = ("cpu",),
        threads: int | None = None,
        native: bool = True,
        limits: Limits | None = None,
    ) -> None:
        self.path = Path(path)
        self.name = self.path.stem if name is None else name
        self.version = version
        self.limits = limits or Limits()
        self._session = Session(
            path, providers=providers, intra_op_num_threads=threads, native=native
        )
        self.native = self._session.native
        self.metadata = self._session.metadata
        on_gpu = self._session.device.kind != "cpu"
        self._run_graph = Bindings(self._session).run if on_gpu else self._session.run
        self._merger = Merger(self._session)
        signature = self._session.signature
        self.inputs = (*signature.inputs, *signature.state_inputs)
        self.optional = frozenset(value.name for value in signature.state_inputs)
        self.outputs = (*signature.outputs, *signature.state_outputs)
        self.ready = False
        self.sequences = Sequences(signature, self.limits)
        self._lock = threading.Lock()
        self._requests = self._executions = self._inferences = 0
        self._queue_seconds, self._compute_seconds = Durations(), Durations()
        self._failures: Counter[str] = Counter()
        self._recent: deque[Execution] = deque(maxlen=RECENT)
        self._batcher = Batcher(self._answer, self.limits, f"engine {self.name}")

    def warm_up(self) -> None:
        """Run batches of a few sizes, the first of which take longer than the others."""
        length = self.metadata.length
        batch = 1
        while batch <= self.limits.max_batch:
            sizes = defaultdict(lambda: length or 2, batch=batch)
            self._run_graph(
                {v.name: np.zeros(v.sized(sizes), v.dtype) for v in self._session.inputs}
            )
            batch *= 4
        self.ready = True

    def submit(
        self,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        sequence: Chunk | None = None,
        timeout: float | None = None,
    ) -> Future[dict[str, Array]]:
        """Take on a request.

        Args:
            inputs: Arrays by input name.
            outputs: The outputs to return; all by default.
            sequence: Which chunk of which sequence it is, if the engine is to hold the state.
            timeout: Seconds that it may wait for its run; that of the limits by default.

        Returns:
            The arrays by output name, to come. Cancelling it takes the request out of the queue.

        Raises:
            InputError: The inputs do not fit the graph or the limits.
            OverloadedError: Too many requests are waiting, or the engine shuts down.
        """
        try:
            ask = self._ask(inputs, outputs, sequence)
            request = Request(
                payload=ask,
                streams=ask.size.streams,
                key=self._merger.key(ask.feeds) if self._merger.merges else None,
                run_bytes=self._merger.run_bytes(ask.size),
                payload_bytes=sum(array.nbytes for array in ask.feeds.values()),
                group=None if sequence is None else ("sequence", sequence.sequence_id),
                timeout=self.limits.timeout if timeout is None else timeout,
            )
            self._batcher.put(request)
        except BnlstmError as error:
            self._fail(error)
            raise
        with self._lock:
            self._requests += 1
        return request.future

    def stats(self) -> Stats:
        """Return what was done so far."""
        with self._lock:
            return Stats(
                self._requests,
                self._executions,
                self._inferences,
                self._queue_seconds.histogram(),
                self._compute_seconds.histogram(),
                dict(self._failures),
                len(self._batcher),
                len(self.sequences),
                tuple(self._recent),
            )

    def drain(self, timeout: float | None = None) -> bool:
        """Refuse new requests, answer those that wait, and return whether that took no longer."""
        return self._batcher.drain(timeout)

    def pause(self, paused: bool) -> None:
        """Let requests wait from now on, or no longer."""
        self._batcher.pause(paused)

    def take_over(self, other: "Engine") -> None:
        """Hold the sequences of another engine, if they are of the same weights."""
        if self.metadata.checkpoint_sha256 == other.metadata.checkpoint_sha256:
            self.sequences.take_over(other.sequences)

    def close(self) -> None:
        """Stop; what still waits is refused."""
        self._batcher.close()

    def _ask(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] | None,
        chunk: Chunk | None,
    ) -> _Ask:
        known = [value.name for value in self.outputs]
        unknown = sorted(set(outputs or ()) - set(known))
        if unknown:
            raise InputError(f"there is no output {unknown[0]!r}; this model has {known}")
        feeds = self._merger.check(inputs)
        size = self._merger.size(inputs)
        if size.time > self.limits.max_time:
            raise InputError(
                f"{size.time} timesteps are more than the server's max_time of "
                f"{self.limits.max_time}; send them in chunks"
            )
        needed = self._session.signature.run_bytes(size.streams, size.time)
        if needed > self.limits.max_run:
            raise InputError(
                f"{size.streams} streams of {size.time} timesteps need about {needed} bytes to "
                f"run; the server's max_run is {self.limits.max_run}. Send fewer streams, or the "
                "timesteps in chunks"
            )
        if chunk is not None:
            self.sequences.check(chunk, size.streams, inputs)
        return _Ask(feeds, size, frozenset(known if outputs is None else outputs), chunk)

    def _answer(self, requests: Sequence[Request]) -> None:
        """Run requests together; if that fails, each alone, so that the innocent are answered."""
        ready = []
        for request in requests:
            try:
                ready.append((request, self._with_state(request.payload)))
            except BnlstmError as error:
                self._fail(error)
                request.future.set_exception(error)
        if not ready:
            return
        try:
            answers = self._run(ready)
        except Exception as error:  # whatever it is, it is the answer
            if len(ready) == 1:
                self._fail(error)
                chunk = ready[0][0].payload.chunk
                if chunk is not None:
                    self.sequences.fail(chunk)
                ready[0][0].future.set_exception(error)
            else:
                for one in ready:
                    self._answer([one[0]])
            return
        for (request, _), results in zip(ready, answers, strict=True):
            ask: _Ask = request.payload
            if ask.chunk is not None:
                self.sequences.keep(ask.chunk, ask.size.streams, results)
            request.future.set_result({n: results[n] for n in results if n in ask.outputs})

    def _with_state(self, ask: _Ask) -> dict[str, Array]:
        if ask.chunk is None:
            return ask.feeds
        return {**ask.feeds, **self.sequences.state(ask.chunk, ask.size.streams)}

    def _run(self, ready: Sequence[tuple[Request, dict[str, Array]]]) -> list[dict[str, Array]]:
        started = time.monotonic()
        merged = self._merger.merge([feeds for _, feeds in ready])
        results = self._run_graph(merged, keep_memory=self._is_small(merged))
        sizes = [request.payload.size for request, _ in ready]
        answers = self._merger.split(results, sizes)
        ended = time.monotonic()
        streams = sum(size.streams for size in sizes)
        waits = [started - request.arrived for request, _ in ready]
        with self._lock:
            self._executions += 1
            self._inferences += streams
            for wait in waits:
                self._queue_seconds.add(wait)
            self._compute_seconds.add(ended - started)
            self._recent.append(Execution(time.time(), max(waits), ended - started, streams))
        return answers

    def _is_small(self, feeds: Mapping[str, Array]) -> bool:
        size = self._merger.size(feeds)
        return self._session.signature.run_bytes(size.streams, size.time) <= KEPT

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._failures[type(error).__name__] += 1
