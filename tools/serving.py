"""What batching gains: python -m tools.benchmark --serving.

Two servers of one file run side by side, one with the batching of `bnlstm-deploy serve` as it is,
one with `--max-batch 1 --max-wait 0`. In each round the same clients load first the one, then the
other, so that noise hits both alike: each has a connection of its own, and sends its next sequence
when it has the answer to the last. They are light, for they share the machine: requests are made
beforehand, of answers no more than status and length is read, and 64 of them take some 50 us a
request.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import torch
from prometheus_client.parser import text_string_to_metric_families
from rich import box
from rich.progress import Progress
from rich.table import Table
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.runtime import Session
from tools.peers import Array, Size, randomize

SERVERS = {"batched": (), "unbatched": ("--max-batch", "1", "--max-wait", "0")}
"""Options of each."""

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
    requests_per_second: list[float] = field(default_factory=list)
    """In each round."""
    median_ms: list[float] = field(default_factory=list)
    """From a request to its answer, in each round."""
    p99_ms: list[float] = field(default_factory=list)
    mean_batch: float = 0.0


@dataclass(frozen=True)
class ServingCase:
    """Both servers of one size."""

    size: Size
    clients: int
    ratio: float
    """How many times the requests a second batching gives, by the medians of all rounds."""
    loads: list[Load]


def measure_serving(
    size: Size, clients: int, seed: int, seconds: float, progress: Progress
) -> ServingCase:
    """Load both servers with clients that send one sequence at a time.

    Args:
        size: Of the sequences and the model; N is that of a request.
        clients: Connections at a time.
        seed: Of weights and inputs.
        seconds: In all, shared by servers and rounds.
        progress: Shows the rounds.
    """
    task = progress.add_task(f"{size}: serving {clients} clients", total=ROUNDS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.manual_seed(seed)
        model = BNLSTMModel(BNLSTM(size.D, size.H, batch_first=True, max_length=size.T), CLASSES)
        randomize(model)
        export(model, path)
        x = np.random.default_rng(seed).standard_normal((size.N, size.T, size.D), np.float32)
        with contextlib.ExitStack() as stack:
            started = {
                name: stack.enter_context(_server(name, path, options))
                for name, options in SERVERS.items()
            }
            for address, _ in started.values():
                _check(address, x, path)
            for _ in range(ROUNDS):
                for address, load in started.values():
                    duration = seconds / ROUNDS / len(SERVERS)
                    waits = asyncio.run(_round(address, x, clients, duration))
                    load.requests_per_second.append(len(waits) / duration)
                    load.median_ms.append(float(np.median(waits)) * 1e3)
                    load.p99_ms.append(float(np.percentile(waits, 99)) * 1e3)
                progress.update(task, advance=1, refresh=True)
            for address, load in started.values():
                load.mean_batch = _mean_batch(address)
    loads = [load for _, load in started.values()]
    batched, unbatched = (np.median(load.requests_per_second) for load in loads)
    return ServingCase(size, clients, float(batched / unbatched), loads)


def serving_table(case: ServingCase) -> Table:
    """Lay out a case."""
    title = f"{case.clients} clients, N,T,D,H = {case.size}: {case.ratio:.2f} times the requests"
    made = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    made.add_column("server")
    for heading in ("requests/s", "median ms", "99% ms", "mean batch", "ready s", "MB"):
        made.add_column(heading, justify="right")
    for load in case.loads:
        figures = [f"{np.median(load.requests_per_second):.0f}"]
        figures += [f"{np.median(ms):.1f}" for ms in (load.median_ms, load.p99_ms)]
        figures += [f"{load.mean_batch:.1f}", f"{load.seconds_to_ready:.2f}"]
        made.add_row(load.server, *figures, f"{load.resident_mb:.0f}")
    return made


@contextlib.contextmanager
def _server(name: str, path: Path, options: tuple[str, ...]) -> Iterator[tuple[str, Load]]:
    """Start a server; return its address when it is ready, and end it at last."""
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
            address = events["listening"]["http"]
            yield address, Load(name, ready, _resident_mb(process.pid))
        finally:
            process.terminate()
            process.wait()


def _check(address: str, x: Array, path: Path) -> None:
    """Check one answer against a session's."""
    with InferenceServerClient(urlsplit(address).netloc) as client:
        answer = client.infer("model", [_tensor(x)]).as_numpy("output")
    np.testing.assert_allclose(answer, Session(path)(x)[0], atol=1e-5)


async def _round(address: str, x: Array, clients: int, seconds: float) -> list[float]:
    """Return how many seconds each request took."""
    waits: list[float] = []
    request = _request(address, x)
    end = time.perf_counter() + seconds
    await asyncio.gather(*(_client(address, request, end, waits) for _ in range(clients)))
    return waits


async def _client(address: str, request: bytes, end: float, waits: list[float]) -> None:
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    while (start := time.perf_counter()) < end:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not head.startswith(b"HTTP/1.1 200 ") or length is None:
            raise RuntimeError(f"the server answered {head!r}")
        await reader.readexactly(int(length[1]))
        waits.append(time.perf_counter() - start)
    writer.close()
    await writer.wait_closed()


def _request(address: str, x: Array) -> bytes:
    outputs = [InferRequestedOutput("output", binary_data=True)]
    body, json_length = InferenceServerClient.generate_request_body([_tensor(x)], outputs=outputs)
    head = (
        "POST /v2/models/model/infer HTTP/1.1",
        f"Host: {urlsplit(address).netloc}",
        f"Inference-Header-Content-Length: {json_length}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*head, "", "")).encode() + bytes(body)


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
