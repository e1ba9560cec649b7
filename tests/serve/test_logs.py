"""Logs that nobody reads: they hold up nothing."""

import contextlib
import json
import os
import sys

import pytest

from bnlstm_deploy.serve import logs
from bnlstm_deploy.serve.logs import MOST_WAITING, _Writer


@pytest.fixture
def pipe():
    """The ends of a pipe."""
    reading, writing = os.pipe()
    yield reading, writing
    for end in (reading, writing):
        with contextlib.suppress(OSError):  # a test closed it
            os.close(end)


def test_lines_are_whole_and_in_order(pipe):
    writer = _Writer(pipe[1])
    lines = [b"%d %s\n" % (i, b"x" * (i % 3000)) for i in range(500)]
    for line in lines:
        writer.put(line)
    read = b""
    while read.count(b"\n") < 500:
        read += os.read(pipe[0], 65536)
    writer.flush(30)
    assert read == b"".join(lines)
    assert writer.dropped == 0


def test_a_pipe_that_nobody_reads_costs_lines_only(pipe):
    writer = _Writer(pipe[1])
    for _ in range(3 * MOST_WAITING):
        writer.put(b"x" * 1000 + b"\n")
    assert writer.dropped >= MOST_WAITING
    writer.flush(0.01)  # and no longer
    os.close(pipe[0])
    writer.flush(30)  # else it writes into what another test opens under the same number


def test_a_pipe_that_is_closed_costs_lines_only(pipe):
    writer = _Writer(pipe[1])
    os.close(pipe[0])
    for _ in range(100):
        writer.put(b"x\n")
    writer.flush(30)
    assert writer.dropped == 100


def test_a_pipe_that_does_not_block_gets_all_lines(pipe):
    os.set_blocking(pipe[1], False)
    writer = _Writer(pipe[1])
    for _ in range(1000):
        writer.put(b"x" * 999 + b"\n")
    read = 0
    while read < 1_000_000:
        read += len(os.read(pipe[0], 65536))
    assert writer.dropped == 0


def test_errors_of_libraries_are_json_too(pipe, monkeypatch):
    writer = _Writer(pipe[1])
    monkeypatch.setattr(logs, "_writers", [writer])
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        record = logs.LOGGER.makeRecord("x", 40, "f", 1, "why %s", ("not",), sys.exc_info())
    logs._Handler().emit(record)
    writer.flush(30)
    line = json.loads(os.read(pipe[0], 65536))
    assert (line["level"], line["event"]) == ("error", "why not")
    assert "ZeroDivisionError" in line["exception"]
