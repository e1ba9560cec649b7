"""Minutes of everything at once: python -m tools.soak --minutes 10.

A server of two workers is asked by clients of all kinds, honest and hostile, over both protocols:
whole sequences, streams whose state is at the client, sequences whose state is at the server,
streams of gRPC, bodies that are too large or no JSON, headers that do not end. Now and then the
files are opened anew, and a worker is killed. Every answer is compared with a session's.
"""

import contextlib
import os
import random
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import torch
import tritonclient.grpc
import typer
from rich.console import Console
from rich.progress import Progress

from bnlstm_deploy.client import Client
from bnlstm_deploy.errors import SequenceError, ServingError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session
from tests.models import randomize
from tests.serve.servers import Server, running
from tests.serve.wire import send
from tools.peers import Array

CLOSE = 1e-5
FEATURES, LONGEST = 3, 40
KILL_SECONDS, RELOAD_SECONDS = 45, 20
CLIENTS = 3
"""Threads of each kind."""


class Soak:
    """The server, what it is asked, and what came of it."""

    def __init__(self, server: Server, session: Session, end: float) -> None:
        self.server, self.session, self.end = server, session, end
        self.done: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()

    def goes_on(self) -> bool:
        """Return whether there is time left."""
        return time.monotonic() < self.end

    def check(self, kind: str, output: Array, x: Array) -> None:
        """Compare an output with a session's."""
        self.done[kind] += 1
        self.wrong[kind] += bool(np.abs(output - self.session(x)[0]).max() > CLOSE)

    def client(self) -> Client:
        """Return a client that waits for a worker to be replaced."""
        return Client(f"http://{self.server.http}", "small", timeout=120)


def made(numbers: np.random.Generator) -> Array:
    """Make an input."""
    shape = (int(numbers.integers(1, 4)), int(numbers.integers(2, LONGEST)), FEATURES)
    return numbers.standard_normal(shape).astype(np.float32)


def whole(soak: Soak, numbers: np.random.Generator) -> None:
    """Ask for whole sequences."""
    with soak.client() as client:
        while soak.goes_on():
            x = made(numbers)
            soak.check("whole sequences", client.run(x)[0], x)


def streams(soak: Soak, numbers: np.random.Generator) -> None:
    """Carry states along."""
    with soak.client() as client:
        while soak.goes_on():
            x, stream = made(numbers), client.stream()
            parts = [stream(x[:, t : t + 5]) for t in range(0, x.shape[1], 5)]
            soak.check("streams", np.concatenate(parts, 1), x)


def sequences(soak: Soak, numbers: np.random.Generator) -> None:
    """Leave states at the server; some are lost with a worker."""
    with soak.client() as client:
        while soak.goes_on():
            x = made(numbers)
            try:
                with client.sequence() as sequence:
                    parts = [sequence(x[:, t : t + 5]) for t in range(0, x.shape[1], 5)]
            except SequenceError:
                soak.done["sequences that were lost"] += 1
            else:
                soak.check("sequences", np.concatenate(parts, 1), x)


def grpc_streams(soak: Soak, numbers: np.random.Generator) -> None:
    """Send chunks of a sequence in one stream of gRPC, without waiting."""
    while soak.goes_on():
        x = made(numbers)
        starts = range(0, x.shape[1], 5)
        answers: list[tuple[object, object]] = []
        came = threading.Semaphore(0)

        def answer(
            result: object,
            error: object,
            answers: list[tuple[object, object]] = answers,
            came: threading.Semaphore = came,
        ) -> None:
            answers.append((result, error))
            came.release()

        with tritonclient.grpc.InferenceServerClient(soak.server.grpc) as client:
            client.start_stream(answer)
            name = int(numbers.integers(1, 2**40))
            for t in starts:
                chunk = np.ascontiguousarray(x[:, t : t + 5])
                tensor = tritonclient.grpc.InferInput("input", chunk.shape, "FP32")
                ends = {"sequence_start": t == 0, "sequence_end": t == starts[-1]}
                with contextlib.suppress(Exception):  # the stream broke
                    tensor.set_data_from_numpy(chunk)
                    client.async_stream_infer("small", [tensor], sequence_id=name, **ends)
            is_whole = all(came.acquire(timeout=5) for _ in starts)
            found = answers[: len(starts)]  # the end of the stream is an answer, too
            client.stop_stream(cancel_requests=True)
        if is_whole and all(error is None for _, error in found):
            parts = [result.as_numpy("output") for result, _ in found]  # type: ignore[attr-defined]
            soak.check("streams of gRPC", np.concatenate(parts, 1), x)
        else:
            soak.done["streams of gRPC that were lost"] += 1


def hostile(soak: Soak, numbers: np.random.Generator) -> None:
    """Send what is refused, or never ends."""
    host, port = soak.server.http.split(":")
    bodies = [b"[" * 10**7, b'{"x":' + b"[[],[]," * 10**6, bytes(40 * 10**6), b"{}", b""]
    while soak.goes_on():
        with contextlib.suppress(OSError):
            body = bodies[int(numbers.integers(len(bodies)))]
            status, *_ = send(soak.server.http, "/v2/models/small/infer", body)
            soak.done[f"hostile, answered {status}"] += 1
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for _ in range(20):
                idle = stack.enter_context(socket.create_connection((host, int(port))))
                idle.sendall(b"POST /v2/models/small/infer HTTP/1.1\r\nX: " + b"x" * 1000)
            time.sleep(0.2)


def trouble(soak: Soak, numbers: np.random.Generator) -> None:
    """Open the files anew, and kill a worker, now and then."""
    del numbers
    killed = reloaded = time.monotonic()
    while soak.goes_on():
        time.sleep(0.5)
        now = time.monotonic()
        if now - reloaded > RELOAD_SECONDS:
            soak.server.process.send_signal(signal.SIGHUP)
            soak.done["reloads"] += 1
            reloaded = now
        if now - killed > KILL_SECONDS:
            ready = [line for line in soak.server.lines if line["event"] == "ready"]
            os.kill(random.choice(ready[-1]["workers"]), signal.SIGKILL)
            soak.done["workers killed"] += 1
            killed = now


KINDS: tuple[Callable[[Soak, np.random.Generator], None], ...] = (
    *(whole, streams, sequences, grpc_streams, hostile),
)


def resident(server: Server) -> float:
    """Return the megabytes of all processes of a server."""
    process = psutil.Process(server.process.pid)
    family = [process, *process.children(recursive=True)]
    return float(sum(each.memory_info().rss for each in family)) / 2**20


def main(
    minutes: Annotated[float, typer.Option(help="How long.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Of what is asked.")] = 0,
) -> None:
    """Run the soak; exit with 1 if an answer was wrong."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.onnx"
        torch.manual_seed(seed)
        export(randomize(BNLSTM(FEATURES, 32, batch_first=True, max_length=20)), path)
        session = Session(path, intra_op_num_threads=1)
        with running(path, "--workers", "2") as server:
            before = resident(server)
            soak = Soak(server, session, time.monotonic() + 60 * minutes)
            with ThreadPoolExecutor(CLIENTS * len(KINDS) + 1) as threads, Progress() as progress:
                task = progress.add_task("soaking", total=60 * minutes)
                seeds = iter(np.random.SeedSequence(seed).spawn(CLIENTS * len(KINDS) + 1))
                jobs = [
                    threads.submit(kind, soak, np.random.default_rng(next(seeds)))
                    for kind in KINDS * CLIENTS
                ]
                jobs.append(threads.submit(trouble, soak, np.random.default_rng(next(seeds))))
                while soak.goes_on():
                    time.sleep(1)
                    left = soak.end - time.monotonic()
                    progress.update(task, completed=60 * minutes - max(left, 0))
                failures = [job.exception() for job in jobs]
            after = resident(server)
            server.stop()
            ended = server.process.wait(120)
    for kind, number in sorted(soak.done.items()):
        console.print(
            f"{number:9,} {kind}" + (f", {soak.wrong[kind]} wrong" if kind in soak.wrong else "")
        )
    console.print(f"{before:9.0f} MB before, {after:.0f} MB after; exit status {ended}")
    errors = [error for error in failures if error is not None]
    for error in errors:
        console.print(f"a client failed: {error!r}")
    if soak.wrong.total() or ended or any(not isinstance(e, ServingError) for e in errors):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
