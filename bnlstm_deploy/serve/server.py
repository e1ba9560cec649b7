"""The server process: from sockets to the last answer."""

import asyncio
import contextlib
import gc
import math
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import uvicorn
import uvloop

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.serve.app import create_app
from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.logs import configure, log
from bnlstm_deploy.serve.rpc import create_server
from bnlstm_deploy.serve.settings import Settings

STOPS = (signal.SIGTERM, signal.SIGINT)
BACKLOG = 2048
SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread gives way to others: a finished run is not to wait 5 ms, which is
Python's own, for the thread that reads requests."""
KEEP_ALIVE = 65
"""Seconds that an idle connection stays open: more than the 60 of common proxies."""


def serve(
    engines: Sequence[Engine],
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    http_port: int = 8080,
    grpc_port: int = 8081,
) -> None:
    """Serve models until SIGTERM or SIGINT, and return when all accepted requests are answered.

    The server is live as soon as this listens, and ready when all models are warm.

    Args:
        engines: The models.
        settings: Limits and the token.
        host: The address to listen on.
        http_port: Of REST, metrics and page; 0 for any that is free, which the log then tells.
        grpc_port: Of gRPC; 0 likewise.

    Raises:
        InputError: A port is in use, or the host is not this machine's.
        RuntimeSessionError: A model cannot be run.
    """
    configure()
    sys.setswitchinterval(SWITCH_INTERVAL)
    with _listen(host, http_port) as http:
        uvloop.run(_serve(engines, settings, http, host, grpc_port))


async def _serve(
    engines: Sequence[Engine], settings: Settings, http: socket.socket, host: str, grpc_port: int
) -> None:
    limits = settings.limits
    app = create_app(engines, settings)
    plane, records = app.state.plane, app.state.records
    address = f"[{host}]" if ":" in host else host
    rpc, grpc_port = create_server(plane, records, settings, f"{address}:{grpc_port}")
    rest = _Rest(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here asks where a request is from
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=math.ceil(limits.timeout),
        )
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for which in STOPS:
        loop.add_signal_handler(which, stop.set)
    await rpc.start()
    running = asyncio.create_task(rest.serve(sockets=[http]))
    log(
        "listening",
        http=f"http://{address}:{http.getsockname()[1]}",
        grpc=f"{address}:{grpc_port}",
    )

    def warmed(done: asyncio.Future[list[None]]) -> None:
        if done.exception() is not None:
            stop.set()
        elif not stop.is_set():
            gc.freeze()  # libraries stay: to look through them for garbage takes 0.1 s each time
            names = [f"{engine.name}/{engine.version}" for engine in engines]
            kernels = {n: str(e.native) for n, e in zip(names, engines, strict=True)}
            log("ready", models=names, kernels=kernels)

    with ThreadPoolExecutor(len(engines)) as threads:
        warm = asyncio.gather(*(loop.run_in_executor(threads, e.warm_up) for e in engines))
        warm.add_done_callback(warmed)
        await stop.wait()
        log("draining")
        plane.draining = True
        drains = (loop.run_in_executor(threads, e.drain, limits.timeout) for e in engines)
        answered = all(await asyncio.gather(*drains))
        rest.should_exit = True
        await asyncio.gather(running, rpc.stop(limits.timeout))
    for engine in engines:
        engine.close()
    log("stopped", answered_all=answered)
    await warm  # an error of it ends the process


class _Rest(uvicorn.Server):
    """uvicorn, which leaves signals to the drain."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise InputError(
            f"cannot listen on port {port} of {host}: {error.strerror}; choose another "
            "http_port, grpc_port or host"
        ) from error
    # Without it an answer's body waits for the client to acknowledge its header, some 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
