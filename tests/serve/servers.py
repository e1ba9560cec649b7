"""Servers in processes of their own, started by the command."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from tests.models import randomize

COMMAND = (sys.executable, "-c", "from bnlstm_deploy.cli.main import main; main()")


def export_small(path: Path, seed: int = 1) -> Path:
    """Write a model with D = 3, H = 4, and statistics of 6 timesteps; batch first."""
    torch.manual_seed(seed)
    export(randomize(BNLSTM(3, 4, batch_first=True, max_length=6), seed), path)
    return path


@dataclass
class Server:
    """A running server; `lines` is its log so far."""

    process: subprocess.Popen[str]
    lines: list[dict[str, Any]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    ended: bool = False

    @property
    def http(self) -> str:
        """HOST:PORT of REST."""
        return str(self.wait_for("listening")["http"]).removeprefix("http://")

    @property
    def grpc(self) -> str:
        """HOST:PORT of gRPC."""
        return str(self.wait_for("listening")["grpc"])

    def wait_for(self, event: str, seconds: float = 60, **fields: object) -> dict[str, Any]:
        """Return the first line of the log with this event and these fields."""

        def found() -> dict[str, Any] | None:
            wanted = {"event": event, **fields}
            return next((line for line in self.lines if wanted.items() <= line.items()), None)

        with self.changed:
            self.changed.wait_for(lambda: found() is not None or self.ended, seconds)
            line = found()
        assert line is not None, (event, self.lines)
        return line

    def wait_for_count(self, event: str, count: int, seconds: float = 60) -> None:
        """Wait until the log has a number of lines with this event."""

        def found() -> bool:
            return [line["event"] for line in self.lines].count(event) >= count

        with self.changed:
            self.changed.wait_for(lambda: found() or self.ended, seconds)
            assert found(), (event, count, self.lines[-10:])

    def metrics(self, **headers: str) -> dict[str, float]:
        """Return the values of /metrics by name and labels."""
        request = urllib.request.Request(f"http://{self.http}/metrics", headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def stop(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def read_log(self) -> None:
        """Read the log until the process ends."""
        assert self.process.stderr is not None
        for text in self.process.stderr:
            with self.changed:
                try:
                    self.lines.append(json.loads(text))
                except json.JSONDecodeError:
                    self.lines.append({"event": "no JSON", "text": text})
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()


@contextlib.contextmanager
def running(
    *arguments: str | Path, token: str | None = None, limits: Mapping[int, int] | None = None
) -> Iterator[Server]:
    """Start `bnlstm-deploy serve` on free ports; wait until it is ready; end it at last.

    `limits` are those of `resource.setrlimit`.
    """
    code = "import resource\n"
    code += "".join(f"resource.setrlimit({w}, ({m}, {m}))\n" for w, m in (limits or {}).items())
    command = (*COMMAND[:-1], code + COMMAND[-1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("BNLSTM_DEPLOY_TOKEN", None)
    if token is not None:
        environment["BNLSTM_DEPLOY_TOKEN"] = token
    ports = ("--http-port", "0", "--grpc-port", "0", "--threads", "1")
    process = subprocess.Popen(
        [*command, "serve", *map(str, arguments), *ports],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    server = Server(process)
    reader = threading.Thread(target=server.read_log)
    reader.start()
    try:
        server.wait_for("ready")
        yield server
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()
    assert not [line for line in server.lines if line["event"] == "no JSON"]
