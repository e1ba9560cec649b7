"""The tritonserver of nvidia-pytriton, started on a model repository."""

import os
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytriton
import tritonclient.http

MODELS = Path(os.environ.get("TRITON_MODELS", Path(sys.prefix) / "models"))
HOME = Path(pytriton.__file__).parent / "tritonserver"
HANG = 60.0
"""Seconds after which a server that does not answer has hung."""


class Server:
    """A server on 127.0.0.1, ended with the `with`."""

    def __init__(self, repository, folder):
        self.folder = folder
        self.http, self.grpc = (f"127.0.0.1:{port}" for port in _free_ports())
        self._link_backend()
        command = [HOME / "bin" / "tritonserver", f"--model-repository={repository}"]
        command += [f"--backend-directory={folder}", "--exit-on-error=false"]
        command += ["--strict-readiness=false", "--disable-auto-complete-config"]
        command += ["--allow-metrics=false"]
        for protocol, address in (("http", self.http), ("grpc", self.grpc)):
            host, port = address.split(":")
            command += [f"--{protocol}-address={host}", f"--{protocol}-port={port}"]
        environment = os.environ | {
            "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            # the backend's own Python knows no environments
            "PYTHONPATH": sysconfig.get_path("purelib"),
        }
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def _link_backend(self):
        """Put the python backend together with its part for this version of Python."""
        backend = self.folder / "python"
        backend.mkdir()
        for file in (HOME / "backends" / "python").iterdir():
            (backend / file.name).symlink_to(file)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = HOME / "python_backend_stubs" / version / "triton_python_backend_stub"
        (backend / stub.name).symlink_to(stub)

    def __enter__(self):
        end = time.monotonic() + HANG
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.__exit__()
                raise AssertionError(self.log.read_text())
            time.sleep(0.05)
        return self

    def _ready(self):
        try:
            # closed at once: the server's end waits half a minute for connections that are open
            with tritonclient.http.InferenceServerClient(self.http) as client:
                return client.is_server_ready()
        except OSError:  # it does not listen yet
            return False

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(HANG)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _free_ports():
    with socket.socket() as first, socket.socket() as second:
        for sock in (first, second):
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in (first, second)]
