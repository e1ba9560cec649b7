"""The server process: from sockets to the last answer."""

import asyncio
import gc
import resource
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bnlstm_deploy.runtime.providers import Provider
from bnlstm_deploy.serve.app import App
from bnlstm_deploy.serve.dispatch import Dispatcher
from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.http import RestServer
from bnlstm_deploy.serve.logs import configure, flush, log
from bnlstm_deploy.serve.models import Models, Repository
from bnlstm_deploy.serve.peers import Peers
from bnlstm_deploy.serve.ports import listen
from bnlstm_deploy.serve.records import Records
from bnlstm_deploy.serve.repository import Entry
from bnlstm_deploy.serve.rpc import RpcServer
from bnlstm_deploy.serve.settings import Settings

STOPS = (signal.SIGTERM, signal.SIGINT)
OTHER_FILES = 256
"""File descriptors beside those of connections."""

SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread gives way to others: a finished run is not to wait 5 ms, which is
Python's own, for the thread that reads requests."""


@dataclass(frozen=True)
class Options:
    """What to serve, and where."""

    models: list[str]
    """Files and folders, as `repository.find` takes them."""
    settings: Settings = field(default_factory=Settings)
    """Limits and access."""
    providers: tuple[Provider, ...] = ("cpu",)
    """As Session takes them."""
    threads: int | None = None
    """Inside an operator."""
    native: bool = True
    """Whether the native kernel runs, where it can."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    http_port: int = 8080
    """Of REST, metrics and page; 0 for any that is free, which the log then tells."""
    grpc_port: int = 8081
    """Of gRPC; 0 likewise."""
    workers: int = 1
    """Processes that share the ports."""
    model_control: bool = False
    """Whether clients may load and unload models."""

    @property
    def address(self) -> str:
        """The host as a URL has it."""
        return f"[{self.host}]" if ":" in self.host else self.host


@dataclass(frozen=True)
class Place:
    """One worker of a server."""

    folder: Path
    """Where the workers reach each other."""
    number: int
    grpc_port: int
    """The port that they share."""
    report: Callable[[str], None]
    """Tells whoever started it what it has come to."""
    left_alone: int
    """A file descriptor that can be read when that is there no more."""


def serve(options: Options) -> None:
    """Serve models until SIGTERM or SIGINT, and return when all accepted requests are answered.

    The server is live as soon as this listens, and ready when all models are warm. SIGHUP opens the
    files anew.

    Raises:
        InputError: A port is in use, the host is not this machine's, or a path is wrong.
        RuntimeSessionError: A model cannot be run.
    """
    with listen(options.host, options.http_port) as http:
        run(options, http)


def run(options: Options, http: socket.socket, place: Place | None = None) -> None:
    """Serve models in this process.

    Args:
        options: What, and where.
        http: The socket for HTTP, which listens.
        place: Which worker of a server this is; None if it is all of it.

    Raises:
        InputError: gRPC's port is in use, or a path is wrong.
        RuntimeSessionError: A model cannot be run.
    """
    models = _open(options)
    _allow_files(options.settings.limits.max_connections + OTHER_FILES)
    configure()
    sys.setswitchinterval(SWITCH_INTERVAL)
    for broken in models.broken:
        log("not served", path=str(broken.entry.path), reason=broken.reason)
    try:
        uvloop.run(_run(options, models, http, place))
    finally:
        flush()


def _allow_files(number: int) -> None:
    """Let this process have that many open files, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _open(options: Options) -> Models:
    def open_one(entry: Entry) -> Engine:
        return Engine(
            entry.path,
            name=entry.name,
            version=entry.version,
            providers=options.providers,
            threads=options.threads,
            native=options.native,
            limits=options.settings.limits,
        )

    repository = Repository(options.models, open_one)
    return Models(*repository.open(), repository, controlled=options.model_control)


async def _run(options: Options, models: Models, http: socket.socket, place: Place | None) -> None:
    await _Server(options, models, http, place).run()  # in the loop, which gRPC's server needs


class _Server:
    """The parts of a server in one process, from the first socket to the last answer."""

    def __init__(
        self, options: Options, models: Models, http: socket.socket, place: Place | None
    ) -> None:
        settings, port = options.settings, options.grpc_port
        self.options, self.models, self.http, self.place = options, models, http, place
        self.timeout = settings.limits.timeout
        records = Records(models)
        self.dispatcher = Dispatcher(records)
        if place is not None:
            port = place.grpc_port
            self.dispatcher = Peers(records, place.folder, place.number, options.workers)
        app = App(models, records, self.dispatcher, settings)
        address = f"{options.address}:{port}"
        parts = models, records, self.dispatcher, settings
        self.rpc = RpcServer(*parts, address, shared=place is not None)
        self.rest = RestServer(app, http, settings.limits, records)
        self.stop = asyncio.Event()
        self.reloading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until a signal says to stop, and all that was accepted is answered."""
        loop = asyncio.get_running_loop()
        for which in STOPS:
            loop.add_signal_handler(which, self.stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        await self.dispatcher.start()
        await self.rpc.start()
        running = asyncio.create_task(self.rest.run_on_socket())
        if self.place is None:
            log_listening(self.options, self.http, self.rpc.port)
        else:
            loop.add_reader(self.place.left_alone, self.stop.set)
        warming = asyncio.create_task(self._warm_up())
        await self.stop.wait()
        await self._drain(running)
        await warming  # an error of it ends the process

    async def _warm_up(self) -> None:
        try:
            await asyncio.gather(*(asyncio.to_thread(e.warm_up) for e in self.models.engines))
        except BaseException:
            self.stop.set()
            raise
        if self.stop.is_set():
            return
        await self.rpc.set_ready(True)
        gc.freeze()  # libraries stay: to look through them for garbage takes 0.1 s each time
        kernels = {f"{e.name}/{e.version}": str(e.native) for e in self.models.engines}
        if self.place is None:
            log("ready", models=[*kernels], kernels=kernels)
        else:
            self.place.report("ready")

    def _reload(self) -> None:
        if self.reloading is None or self.reloading.done():
            self.reloading = asyncio.create_task(self._reload_all())

    async def _reload_all(self) -> None:
        await self.models.reload()
        if self.place is not None:
            self.place.report("reloaded")

    async def _drain(self, running: asyncio.Task[None]) -> None:
        if self.place is None:
            log("draining")
        self.models.draining = True
        await self.rpc.set_ready(False)
        engines = self.models.engines
        drains = (asyncio.to_thread(engine.drain, self.timeout) for engine in engines)
        answered = all(await asyncio.gather(*drains))
        self.rest.should_exit = True
        await asyncio.gather(running, self.rpc.stop(self.timeout))
        await self.dispatcher.stop()
        for engine in engines:
            engine.close()
        if self.place is None:
            log("stopped", answered_all=answered)
        else:
            self.place.report("answered all" if answered else "did not answer all")


def log_listening(options: Options, http: socket.socket, grpc_port: int) -> None:
    """Tell where the server listens."""
    log(
        "listening",
        http=f"http://{options.address}:{http.getsockname()[1]}",
        grpc=f"{options.address}:{grpc_port}",
    )
