"""Requests that wait, and which of them share a run.

One thread runs what waits. While it runs, requests collect, so that under load batches fill by
themselves; only if there is nothing to run but a batch that is not full does it wait for more.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from threading import Condition, Thread
from typing import Any

from bnlstm_deploy.errors import DeadlineError, OverloadedError, SequenceError
from bnlstm_deploy.serve.limits import Limits


class Outcome(Future[Any]):
    """What becomes of a request. If it fails, `on_failure` is called before that can be seen."""

    on_failure: Callable[[], None] | None = None

    def set_exception(self, exception: BaseException | None) -> None:
        """Fail."""
        if self.on_failure:
            self.on_failure()
        super().set_exception(exception)

    def cancel(self) -> bool:
        """Give up what is not running yet, and return whether that was so."""
        if self.cancelled():
            return True
        given_up = super().cancel()
        if given_up and self.on_failure:
            self.on_failure()
        return given_up


@dataclass(eq=False)
class Request:
    """One request in the queue."""

    payload: Any
    """What the runner makes of it."""
    streams: int
    key: Hashable
    """Requests of equal keys can share a run; None if with none."""
    run_bytes: int = 0
    """What a run of it may take, padded as far as others may have it be."""
    payload_bytes: int = 0
    """What it takes as it waits."""
    group: Hashable = None
    """Requests of one group run in order, and never together; None if it has none."""
    timeout: float = 30.0
    """Seconds that it may wait."""
    future: Outcome = field(default_factory=Outcome)
    arrived: float = field(default_factory=time.monotonic)
    number: int = 0
    """Which one it is of those in the queue, given there."""


class Batcher:
    """A queue and the thread that empties it, first come, first served.

    The oldest request goes into every run. Others join it in the order of their arrival, if they
    have its key and there is room. Nothing is overtaken forever, as each run takes the oldest.

    Args:
        run: Computes requests and gives each future its result; it must not raise.
        limits: `max_batch`, `max_run`, `max_wait`, `max_queue` and `max_pending` are used.
        name: Of the thread.
    """

    def __init__(
        self, run: Callable[[Sequence[Request]], None], limits: Limits, name: str = "batcher"
    ) -> None:
        self._run = run
        self._limits = limits
        self._queue: deque[Request] = deque()
        self._changed = Condition()
        self._waiting_bytes = self._waiting_streams = 0
        self._running = self._accepted = 0
        self._paused = False
        self._draining = self._closed = False
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, request: Request) -> None:
        """Put a request in the queue.

        Raises:
            OverloadedError: The queue is full, or the server is shutting down.
        """
        with self._changed:
            if self._draining:
                raise OverloadedError("the server is shutting down; ask another one")
            if full := self._why_full(request):
                raise OverloadedError(f"{full}; try again later")
            self._accepted = request.number = self._accepted + 1
            # not of the request itself, which would then be kept until garbage is collected
            request.future.on_failure = partial(self._failed, request.number, request.group)
            self._queue.append(request)
            self._waiting_bytes += request.payload_bytes
            self._waiting_streams += request.streams
            # While the thread waits for others, it needs to know of none that fill no batch: to
            # wake it for each is half of what a small request costs.
            alone = len(self._queue) == 1 or request.key is None
            if alone or self._waiting_streams >= self._limits.max_batch:
                self._changed.notify_all()

    def pause(self, paused: bool) -> None:
        """Let requests wait from now on, or no longer."""
        with self._changed:
            self._paused = paused
            self._changed.notify_all()

    def drain(self, timeout: float | None = None) -> bool:
        """Refuse new requests and answer those that wait; return whether that was done in time."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._queue and not self._running, timeout)

    def close(self) -> None:
        """Stop. What still waits is refused."""
        with self._changed:
            self._draining = self._closed = True
            left, self._queue = self._queue, deque()
            self._changed.notify_all()
        for request in left:
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(OverloadedError("the server is shutting down"))
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                batch = self._next()
                if batch is None:
                    return
                self._running = len(batch)
            live = [request for request in batch if self._is_live(request)]
            if live:
                self._run(live)
            with self._changed:
                self._running = 0
                self._changed.notify_all()
            del batch, live  # or their arrays would stay until the next request

    def _next(self) -> list[Request] | None:
        """Wait for the next batch and take it out of the queue; None to stop."""
        while True:
            self._changed.wait_for(lambda: (self._queue and not self._paused) or self._closed)
            if self._closed:
                return None
            batch = self._collect()
            full = sum(request.streams for request in batch) >= self._limits.max_batch
            left = self._queue[0].arrived + self._limits.max_wait - time.monotonic()
            if full or left <= 0 or self._draining or self._queue[0].key is None:
                self._take_out(batch)
                return batch
            self._changed.wait(left)

    def _why_full(self, request: Request) -> str:
        """Return why a request may not wait, too, or nothing; one alone always may."""
        waiting, limits = len(self._queue), self._limits
        if waiting >= limits.max_queue:
            return f"{waiting} requests are waiting, which is max_queue"
        if waiting and self._waiting_bytes + request.payload_bytes > limits.max_pending:
            return (
                f"requests of {self._waiting_bytes} bytes are waiting; with this one they are over "
                f"max_pending, {limits.max_pending}"
            )
        return ""

    def _take_out(self, requests: Sequence[Request]) -> None:
        taken = set(map(id, requests))
        self._queue = deque(r for r in self._queue if id(r) not in taken)
        self._waiting_bytes -= sum(request.payload_bytes for request in requests)
        self._waiting_streams -= sum(request.streams for request in requests)

    def _failed(self, number: int, group: Hashable) -> None:
        """Take out a request, and refuse what waits behind it: that was sent as if it were done."""
        with self._changed:
            later = [request for request in self._queue if request.number > number]
            behind = [r for r in later if r.group == group and group is not None]
            self._take_out([*behind, *(r for r in self._queue if r.number == number)])
            self._changed.notify_all()
        for other in behind:
            if other.future.set_running_or_notify_cancel():
                other.future.set_exception(
                    SequenceError(
                        "the request before this one of its sequence failed; send that again, or "
                        "the sequence anew from its start, with sequence_start"
                    )
                )

    def _is_live(self, request: Request) -> bool:
        """Return whether somebody still waits for a request."""
        if not request.future.set_running_or_notify_cancel():
            self._failed(request.number, request.group)  # its `cancel` may be yet to do that
            return False
        waited = time.monotonic() - request.arrived
        if waited > request.timeout:
            request.future.set_exception(
                DeadlineError(
                    f"the request waited {waited:.1f} s for its run, over its limit of "
                    f"{request.timeout:g} s; try again later"
                )
            )
            return False
        return True

    def _collect(self) -> list[Request]:
        """Return the requests that run next: the oldest, and those that can join it."""
        first = self._queue[0]
        batch, room = [first], self._limits.max_batch - first.streams
        room_bytes = self._limits.max_run - first.run_bytes
        if first.key is None:
            return batch
        passed = {first.group} - {None}
        for request in list(self._queue)[1:]:
            if room <= 0:
                break
            fits = request.streams <= room and request.run_bytes <= room_bytes
            if fits and request.key == first.key and request.group not in passed:
                batch.append(request)
                room -= request.streams
                room_bytes -= request.run_bytes
            # a later chunk of the same sequence does not overtake this one, nor run with it
            if request.group is not None:
                passed.add(request.group)
        return batch
