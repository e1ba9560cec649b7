"""Logs of a server: one JSON object a line on stderr, and never a tensor's data.

A thread writes them, so that no request waits for whoever reads stderr. If nobody does, lines are
dropped and counted.
"""

import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from threading import Thread

import orjson

LOGGER = logging.getLogger("bnlstm_deploy.serve")

QUIET = ("uvicorn", "uvicorn.error", "uvicorn.access", "grpc", "asyncio")
"""Loggers of libraries: of these warnings and errors only."""

MOST_WAITING = 10_000
"""Lines that wait to be written; one more is dropped."""

AT_ONCE = 4096
"""Bytes that are written together, if a line has not more by itself: what a pipe takes from one
process without a part of another's between."""

COLLECT = 0.01
"""Seconds until a line is written, for others to come along: each write interrupts requests."""

PAUSE = 0.05
"""Seconds until the next attempt to write where one would block."""


class _Writer:
    """Writes lines to a file descriptor in a thread of its own."""

    def __init__(self, descriptor: int) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        self._busy = False
        Thread(target=self._work, name="log", daemon=True).start()

    def put(self, line: bytes) -> None:
        """Take on a line, or drop it."""
        if self._lines.qsize() < MOST_WAITING:
            self._lines.put(line)
        else:
            self.dropped += 1

    def flush(self, seconds: float) -> None:
        """Wait until all lines are written, but no longer than some seconds."""
        end = time.monotonic() + seconds
        while (self._busy or not self._lines.empty()) and time.monotonic() < end:
            time.sleep(0.001)

    def _work(self) -> None:
        while True:
            self._busy = False
            line = self._lines.get()
            self._busy = True
            time.sleep(COLLECT)
            text, lines = b"", 0
            with suppress(Empty):
                while True:
                    if text and len(text) + len(line) > AT_ONCE:
                        self._write(text, lines)
                        text, lines = b"", 0
                    text, lines = text + line, lines + 1
                    line = self._lines.get_nowait()
            self._write(text, lines)

    def _write(self, text: bytes, lines: int) -> None:
        while text:
            try:
                text = text[os.write(self._descriptor, text) :]
            except BlockingIOError:  # somebody else made the pipe so
                time.sleep(PAUSE)
            except OSError:  # nobody reads it any more
                self.dropped += lines
                return


_writers: list[_Writer] = []
"""The writer of this process, once it is configured."""


class _Handler(logging.Handler):
    """Writes a record of a library, or an error, as `log` does."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        fields: dict[str, object] = {}
        if record.exc_info:
            fields["exception"] = logging.Formatter().formatException(record.exc_info)
        _put(record.levelname.lower(), record.getMessage(), fields)


def configure() -> None:
    """Send the logs of this process to stderr as JSON."""
    if sys.stderr is not None and not _writers:
        _writers.append(_Writer(sys.stderr.fileno()))
    root = logging.getLogger()
    root.handlers = [_Handler()]
    root.setLevel(logging.WARNING)
    LOGGER.setLevel(logging.INFO)
    for name in QUIET:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.WARNING)


def log(event: str, **fields: object) -> None:
    """Write one line, in a process that is configured.

    Past `logging`, which would be a tenth of a request's time.
    """
    if _writers:
        _put("info", event, fields)


def dropped_lines() -> int:
    """Return how many lines nobody read in time."""
    return sum(writer.dropped for writer in _writers)


def flush(seconds: float = 1.0) -> None:
    """Wait until all lines are written, but no longer than some seconds."""
    for writer in _writers:
        writer.flush(seconds)


def _put(level: str, event: str, fields: Mapping[str, object]) -> None:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"time": time, "level": level, "event": event, **fields}
    for writer in _writers:
        writer.put(orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))
