"""A server of several processes behind one port: starts them, and restarts what dies.

HTTP's socket is the same in all of them, so that no connection is lost with one. gRPC has one each
on a shared port. Each holds the sequences whose ids are its own (`serve.peers`).
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from bnlstm_deploy.errors import BnlstmError, RuntimeSessionError
from bnlstm_deploy.serve.logs import configure, flush, log
from bnlstm_deploy.serve.ports import listen, reserved
from bnlstm_deploy.serve.server import STOPS, Options, Place, log_listening, run

PAUSE = 1.0
"""Seconds before a worker is restarted that died before it was ready."""

GRACE = 5.0
"""Seconds more than a request may take, after which a worker that does not end is killed."""


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    reports: Connection
    ready: bool = False
    answered_all: bool = False


def serve_workers(options: Options) -> None:
    """Serve models in several processes until SIGTERM or SIGINT.

    Returns when all have answered what they had accepted. SIGHUP has them open the files anew, one
    after the other.

    Raises:
        InputError: A port is in use, or the host is not this machine's.
        RuntimeSessionError: A worker cannot start.
    """
    configure()
    with (
        listen(options.host, options.http_port) as http,
        reserved(options.host, options.grpc_port) as grpc_port,
        tempfile.TemporaryDirectory(prefix="bnlstm-") as folder,
    ):
        log_listening(options, http, grpc_port)
        try:
            _Supervisor(options, http, grpc_port, Path(folder)).run()
        finally:
            flush()


class _Supervisor:
    def __init__(self, options: Options, http: socket.socket, grpc_port: int, folder: Path) -> None:
        self._options, self._http, self._grpc_port = options, http, grpc_port
        self._folder = folder
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, _Worker] = {}
        self._was_ready = False
        self._to_reload: list[int] = []

    def run(self) -> None:
        with _signals() as signals:
            for number in range(self._options.workers):
                self._start(number)
            while True:
                which = self._wait(signals)
                if which in STOPS:
                    break
                if which == signal.SIGHUP and not self._to_reload:
                    self._to_reload = [*self._workers]
                    self._reload_next()
            self._stop()

    def _reload_next(self) -> None:
        """Have the first of those that are to reload do so; the next one is told when it has."""
        while self._to_reload:
            worker = self._workers[self._to_reload[0]]
            if worker.ready and worker.process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.process.pid, signal.SIGHUP)
                    return
            del self._to_reload[0]  # it is about to open the files anyway

    def _start(self, number: int) -> None:
        reports, reporting = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_work,
            args=(self._options, self._http, self._folder, number, self._grpc_port, reporting),
            name=f"worker {number}",
        )
        process.start()
        reporting.close()
        self._workers[number] = _Worker(number, process, reports)

    def _wait(self, signals: socket.socket) -> int | None:
        """Wait for a signal, a report, or the end of a worker; return the signal."""
        reports = {worker.reports: worker for worker in self._workers.values()}
        ends = {worker.process.sentinel: worker for worker in self._workers.values()}
        happened = wait([signals, *reports, *ends])
        for what in happened:
            if isinstance(what, Connection):
                self._read(reports[what])
        if signals in happened:
            return signals.recv(1)[0]
        for what in happened:
            if isinstance(what, int) and what in ends:
                self._replace(ends[what])
        return None

    def _read(self, worker: _Worker) -> None:
        try:
            report = worker.reports.recv()
        except (EOFError, OSError):
            worker.reports.close()
            worker.process.join()
            self._replace(worker)
            return
        worker.answered_all = report == "answered all"
        if report == "ready":
            worker.ready = True
            if all(worker.ready for worker in self._workers.values()):
                log("ready", workers=[w.process.pid for w in self._workers.values()])
                self._was_ready = True
        elif report == "reloaded" and self._to_reload[:1] == [worker.number]:
            del self._to_reload[0]
            self._reload_next()
        elif isinstance(report, BnlstmError) and not self._was_ready:
            self._stop()
            raise report

    def _replace(self, worker: _Worker) -> None:
        """Start a worker in the place of one that died."""
        if self._workers.get(worker.number) is not worker:
            return
        worker.process.join()
        log("worker died", worker=worker.number, exit_code=worker.process.exitcode)
        if not worker.ready:
            if not self._was_ready:
                self._stop()
                raise RuntimeSessionError(
                    f"a worker ended with {worker.process.exitcode} before it was ready; the log "
                    "has why"
                )
            time.sleep(PAUSE)
        self._start(worker.number)
        if self._to_reload[:1] == [worker.number]:
            del self._to_reload[0]
            self._reload_next()

    def _stop(self) -> None:
        log("draining")
        workers = [*self._workers.values()]
        for worker in workers:
            if worker.process.is_alive():
                worker.process.terminate()
        end = time.monotonic() + self._options.settings.limits.timeout + GRACE
        for worker in workers:
            worker.process.join(max(end - time.monotonic(), 0))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            with contextlib.suppress(EOFError, OSError):
                while not worker.reports.closed and worker.reports.poll():
                    worker.answered_all = worker.reports.recv() == "answered all"
        log("stopped", answered_all=all(worker.answered_all for worker in workers))


def _work(
    options: Options,
    http: socket.socket,
    folder: Path,
    number: int,
    grpc_port: int,
    reports: Connection,
) -> None:
    """Be a worker: what its process runs."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def report(what: object) -> None:
        with contextlib.suppress(OSError):
            reports.send(what)

    try:
        run(options, http, Place(folder, number, grpc_port, report, parent.sentinel))
    except BnlstmError as error:
        report(error)


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """Yield a socket that has the number of each signal as it comes."""
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    which = (*STOPS, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: None) for number in which}
    signal.set_wakeup_fd(writing.fileno())
    try:
        with reading, writing:
            yield reading
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
