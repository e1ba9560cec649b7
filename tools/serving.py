"""What serving costs: python -m tools.benchmark --serving.

Servers of one file run side by side: `bnlstm-deploy serve` as it is, the same over gRPC, without
batching (`--max-batch 1 --max-wait 0`), and with two workers; and FastAPI with a session of ONNX
Runtime, as one writes it by hand (`tools.serving_peers`). In each round the same clients load one
after the other, so that noise hits all alike: each has a connection of its own, and sends its next
sequence when it has the answer to the last. They are light, for they share the machine: requests
are made beforehand, and of answers no more than status and length is read. To compare REST and gRPC
both are asked by tritonclient, too.

Then connections: while 256 busy ones are kept, 128 new ones a second ask for one answer each, and
others for the server's health; beside it the same application on asyncio's own event loop.
"""

import asyncio
import contextlib
import json
import multiprocessing
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import psutil
import torch
import tritonclient.grpc.aio
import tritonclient.http.aio
from prometheus_client.parser import text_string_to_metric_families
from rich import box
from rich.progress import Progress
from rich.table import Table
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.runtime import Session
from tools.peers import Array, Size, randomize

SERVERS = {
    "REST": (),
    "unbatched": ("--max-batch", "1", "--max-wait", "0"),
    "2 workers": ("--workers", "2"),
}
"""Options of each."""

CLIENTS = {"REST, tritonclient": tritonclient.http.aio, "gRPC, tritonclient": tritonclient.grpc.aio}
"""The first server once more, with clients that are less light, and the same for both ports."""

FASTAPI = "FastAPI"
"""The server to compare with."""

KEPT, NEW_A_SECOND, HEALTH_A_SECOND = 256, 128, 20
"""Connections that are kept; and that are made each second, to infer and to ask for health."""

HEALTH = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"

ROUNDS = 5
CLASSES = 10
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")
COMMAND = (sys.executable, "-c", "from bnlstm_deploy.cli.main import main; main()")


@dataclass
class Load:
    """What was measured of one server."""

    server: str
    seconds_to_ready: float
    """From the start of its process until all models are warm."""
    resident_mb: float
    """Of its process, before the load."""
    mean_batch: float | None = None
    """None where the server does not tell."""
    requests_per_second: list[float] = field(default_factory=list, init=False)
    """In each round."""
    median_ms: list[float] = field(default_factory=list, init=False)
    """From a request to its answer, in each round."""
    p99_ms: list[float] = field(default_factory=list, init=False)
    cpu_us: list[float] = field(default_factory=list, init=False)
    """Of the server's processes, for a request, in each round."""


@dataclass(frozen=True)
class Connections:
    """What new connections had to wait, while others were busy."""

    server: str
    health_ms: tuple[float, float]
    """Median and 99 % of the server's health on a new connection."""
    served: float
    """Requests a second of new connections."""
    kept: float
    """Requests a second of those that were kept."""


@dataclass(frozen=True)
class ServingCase:
    """All servers of one size."""

    size: Size
    clients: int
    ratios: dict[str, float]
    """How many times the requests a second of other servers REST has, by the medians."""
    loads: list[Load]
    connections: list[Connections]


def measure_serving(
    size: Size, clients: int, seed: int, seconds: float, progress: Progress
) -> ServingCase:
    """Load all servers with clients that send one sequence at a time.

    Args:
        size: Of the sequences and the model; N is that of a request, and 1.
        clients: Connections at a time.
        seed: Of weights and inputs.
        seconds: In all, shared by servers and rounds.
        progress: Shows the rounds.
    """
    task = progress.add_task(f"{size}: serving {clients} clients", total=ROUNDS + 1)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = Path(folder) / "model.onnx"
        torch.manual_seed(seed)
        model = BNLSTMModel(BNLSTM(size.D, size.H, batch_first=True, max_length=size.T), CLASSES)
        randomize(model)
        export(model, path)
        x = np.random.default_rng(seed).standard_normal((size.N, size.T, size.D), np.float32)
        servers = [
            stack.enter_context(_serve(name, path, options)) for name, options in SERVERS.items()
        ]
        for server in servers:
            _check(server.http, x, path)
        servers += [
            replace(servers[0], name=name, load=replace(servers[0].load, server=name))
            for name in CLIENTS
        ]
        servers.append(stack.enter_context(_peer("fastapi", FASTAPI, path)))
        duration = seconds / ROUNDS / len(servers)
        for _ in range(ROUNDS):
            for server in servers:
                _measure(server, x, clients, duration)
            progress.update(task, advance=1, refresh=True)
        for server in servers[: len(SERVERS)]:
            server.load.mean_batch = _mean_batch(server.http)
        plain = stack.enter_context(_peer("asyncio", "asyncio", path))
        connections = [_connect(server, x, seconds / 4) for server in (servers[0], plain)]
        progress.update(task, advance=1, refresh=True)
    medians = {s.name: float(np.median(s.load.requests_per_second)) for s in servers}
    first = medians.pop("REST")
    ratios = {name: first / median for name, median in medians.items()}
    return ServingCase(size, clients, ratios, [s.load for s in servers], connections)


def serving_tables(case: ServingCase) -> list[Table]:
    """Lay out a case."""
    title = f"{case.clients} clients, N,T,D,H = {case.size}"
    made = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    made.add_column("server")
    headings = ("requests/s", "REST to it", "median ms", "99% ms", "server us", "mean batch")
    for heading in (*headings, "ready s", "MB"):
        made.add_column(heading, justify="right")
    for load in case.loads:
        figures = [f"{np.median(load.requests_per_second):.0f}"]
        figures.append(f"{case.ratios[load.server]:.2f}" if load.server in case.ratios else "")
        figures += [f"{np.median(ms):.1f}" for ms in (load.median_ms, load.p99_ms)]
        figures.append(f"{np.median(load.cpu_us):.0f}")
        figures.append("" if load.mean_batch is None else f"{load.mean_batch:.1f}")
        made.add_row(
            load.server, *figures, f"{load.seconds_to_ready:.2f}", f"{load.resident_mb:.0f}"
        )
    title = f"{KEPT} kept connections, {NEW_A_SECOND} new ones a second"
    waits = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    waits.add_column("server")
    for heading in ("health, median ms", "99% ms", "new, requests/s", "kept, requests/s"):
        waits.add_column(heading, justify="right")
    for each in case.connections:
        health = [f"{ms:.1f}" for ms in each.health_ms]
        waits.add_row(each.server, *health, f"{each.served:.0f}", f"{each.kept:.0f}")
    return [made, waits]


@dataclass(frozen=True)
class _Server:
    """A server that runs."""

    name: str
    process: psutil.Process
    http: str
    """The address of REST."""
    grpc: str
    load: Load

    def cpu_seconds(self) -> float:
        """Return what its processes used so far."""
        processes = [self.process, *self.process.children(recursive=True)]
        return sum(sum(each.cpu_times()[:2]) for each in processes)


@contextlib.contextmanager
def _serve(name: str, path: Path, options: tuple[str, ...]) -> Iterator[_Server]:
    """Start a server; yield it when it is ready, and end it at last."""
    ports = ("--http-port", "0", "--grpc-port", "0", "--threads", "1")
    start = time.perf_counter()
    with (path.parent / f"{name}.log").open("w+") as log:
        process = subprocess.Popen([*COMMAND, "serve", str(path), *ports, *options], stderr=log)
        try:
            events: dict[str, dict[str, str]] = {}
            while "ready" not in events:
                if process.poll() is not None:
                    raise RuntimeError(Path(log.name).read_text())
                time.sleep(0.01)
                whole = Path(log.name).read_text().rpartition("\n")[0].splitlines()
                events = {entry["event"]: entry for entry in map(json.loads, whole)}
            ready = time.perf_counter() - start
            where = events["listening"]
            load = Load(name, ready, _resident_mb(process.pid))
            yield _Server(name, psutil.Process(process.pid), where["http"], where["grpc"], load)
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def _peer(kind: str, name: str, path: Path) -> Iterator[_Server]:
    """Start a server to compare with; yield it when it listens, and end it at last."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.serving_peers", kind, str(path), str(port)]
    )
    try:
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            if process.poll() is not None:
                raise RuntimeError(f"the server {kind} ended with {process.returncode}")
            time.sleep(0.01)
        ready = time.perf_counter() - start
        load = Load(name, ready, _resident_mb(process.pid))
        yield _Server(name, psutil.Process(process.pid), f"http://127.0.0.1:{port}", "", load)
    finally:
        process.terminate()
        process.wait()


def _measure(server: _Server, x: Array, clients: int, seconds: float) -> None:
    """Load a server for one round."""
    before = server.cpu_seconds()
    if server.name in CLIENTS:
        module = CLIENTS[server.name]
        address = server.grpc if module is tritonclient.grpc.aio else urlsplit(server.http).netloc
        waits = asyncio.run(_triton_round(module, address, x, clients, seconds))
    elif server.name == FASTAPI:
        request = _http(server.http, "/infer", (), x.tobytes())
        waits = asyncio.run(_round(server.http, request, clients, seconds))
    else:
        waits = asyncio.run(_round(server.http, _request(server.http, x), clients, seconds))
    load = server.load
    load.cpu_us.append((server.cpu_seconds() - before) / len(waits) * 1e6)
    load.requests_per_second.append(len(waits) / seconds)
    load.median_ms.append(float(np.median(waits)) * 1e3)
    load.p99_ms.append(float(np.percentile(waits, 99)) * 1e3)


def _check(address: str, x: Array, path: Path) -> None:
    """Check one answer against a session's."""
    with InferenceServerClient(urlsplit(address).netloc) as client:
        answer = client.infer("model", [_tensor(x)]).as_numpy("output")
    np.testing.assert_allclose(answer, Session(path)(x)[0], atol=1e-5)


async def _round(address: str, request: bytes, clients: int, seconds: float) -> list[float]:
    """Return how many seconds each request took."""
    waits: list[float] = []
    end = time.perf_counter() + seconds
    await asyncio.gather(*(_client(address, request, end, waits) for _ in range(clients)))
    return waits


async def _client(address: str, request: bytes, end: float, waits: list[float]) -> None:
    """Send requests over one connection until a time."""
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    while (start := time.perf_counter()) < end:
        await _ask(reader, writer, request)
        waits.append(time.perf_counter() - start)
    writer.close()
    await writer.wait_closed()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = LENGTH.search(head)
    if not head.startswith(b"HTTP/1.1 200 ") or length is None:
        raise RuntimeError(f"the server answered {head!r}")
    await reader.readexactly(int(length[1]))


async def _triton_round(
    module: ModuleType, address: str, x: Array, clients: int, seconds: float
) -> list[float]:
    """Return how many seconds each request of tritonclient took, over one of the protocols."""
    tensor = module.InferInput("input", list(x.shape), "FP32").set_data_from_numpy(x)
    outputs = [module.InferRequestedOutput("output")]
    waits: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        async with module.InferenceServerClient(address) as client:
            while (start := time.perf_counter()) < end:
                result = await client.infer("model", [tensor], outputs=outputs)
                result.as_numpy("output")
                waits.append(time.perf_counter() - start)

    await asyncio.gather(*(client() for _ in range(clients)))
    return waits


def _connect(server: _Server, x: Array, seconds: float) -> Connections:
    """Return what new connections wait while others are busy; another process asks for health."""
    request = _request(server.http, x)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        other.submit(int).result()  # it is there
        health = other.submit(_arrivals, server.http, HEALTH, HEALTH_A_SECOND, seconds)
        served, kept = asyncio.run(_busy(server.http, request, seconds))
        waits = [float(np.percentile(health.result(), part)) * 1e3 for part in (50, 99)]
    return Connections(server.name, (waits[0], waits[1]), served / seconds, kept / seconds)


async def _busy(address: str, request: bytes, seconds: float) -> tuple[int, int]:
    """Return how many requests of new and of kept connections were answered."""
    kept: list[float] = []
    end = time.perf_counter() + seconds
    clients = asyncio.gather(*(_client(address, request, end, kept) for _ in range(KEPT)))
    served = await _arrive(address, request, NEW_A_SECOND, end)
    await clients
    return len(served), len(kept)


def _arrivals(address: str, request: bytes, a_second: float, seconds: float) -> list[float]:
    return asyncio.run(_arrive(address, request, a_second, time.perf_counter() + seconds))


async def _arrive(address: str, request: bytes, a_second: float, end: float) -> list[float]:
    """Return how many seconds each request on a connection of its own took."""
    parts = urlsplit(address)
    took: list[float] = []

    async def one() -> None:
        start = time.perf_counter()
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        await _ask(reader, writer, request)
        took.append(time.perf_counter() - start)
        writer.close()

    async with asyncio.TaskGroup() as group:
        begin, number = time.perf_counter(), 0
        while (now := time.perf_counter()) < end:
            if now - begin >= number / a_second:
                group.create_task(one())
                number += 1
            await asyncio.sleep(max(0.0, begin + number / a_second - now))
    return took


def _request(address: str, x: Array) -> bytes:
    outputs = [InferRequestedOutput("output", binary_data=True)]
    body, json_length = InferenceServerClient.generate_request_body([_tensor(x)], outputs=outputs)
    header = f"Inference-Header-Content-Length: {json_length}"
    return _http(address, "/v2/models/model/infer", (header,), bytes(body))


def _http(address: str, path: str, headers: tuple[str, ...], body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1",
        f"Host: {urlsplit(address).netloc}",
        *headers,
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*head, "", "")).encode() + body


def _tensor(x: Array) -> InferInput:
    return InferInput("input", list(x.shape), "FP32").set_data_from_numpy(x)


def _mean_batch(address: str) -> float:
    """Return how many streams a run of the server had so far."""
    with urlopen(f"{address}/metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    totals = {sample.name: sample.value for family in families for sample in family.samples}
    return totals["bnlstm_inferences_total"] / totals["bnlstm_executions_total"]


def _resident_mb(pid: int) -> float:
    (line,) = (
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    return int(line.split()[1]) / 1024
