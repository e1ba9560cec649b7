"""Memory of large messages, given back to the system.

The C library keeps what was freed for later, in an arena of each thread; gRPC has many.
"""

import asyncio
import ctypes
import sys

LARGE = 2**20
"""Bytes of a message from which on it is worth the while."""

CALM = 1.0
"""Seconds after the last large message."""


class Trimmer:
    """Gives memory back, some time after large messages."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._running: asyncio.Future[None] | None = None
        self._trim = None
        if sys.platform == "linux":
            self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone

    def seen(self, size: int) -> None:
        """Note a message, in the thread of the event loop."""
        if self._trim is None or size < LARGE:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(CALM, self._start)

    def _start(self) -> None:
        self._timer = None
        self._running = asyncio.ensure_future(asyncio.to_thread(self._run))

    def _run(self) -> None:
        assert self._trim is not None
        self._trim(0)  # without the interpreter's lock
