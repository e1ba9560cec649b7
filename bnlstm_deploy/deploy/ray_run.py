"""The application on a Ray cluster, from the start to the last answer."""

import signal
import threading
from collections.abc import Sequence

import ray
from ray import serve

from bnlstm_deploy.deploy.ray_app import build
from bnlstm_deploy.deploy.ray_config import Options
from bnlstm_deploy.serve.logs import configure, flush, log


def run(
    options: Options,
    *,
    name: str,
    address: str | None,
    host: str,
    port: int,
    stops: Sequence[signal.Signals],
) -> None:
    """Run the application until a signal comes, and return when what it accepted is answered.

    Args:
        options: The application's arguments.
        name: The application's name.
        address: Of a Ray cluster, of which the application alone is removed at the end; None to
            start Ray here, and end it.
        host: The address that the proxies listen on, unless Serve runs in the cluster already.
        port: Their port.
        stops: The signals.

    Raises:
        ConnectionError: There is no cluster at the address.
        RuntimeError: A replica does not start.
    """
    stop = threading.Event()
    if address is None:
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
    else:
        ray.init(address=address, log_to_driver=False)
    for which in stops:  # after ray.init, which sets handlers of its own
        signal.signal(which, lambda *_: stop.set())
    configure()
    try:
        serve.start(http_options={"host": host, "port": port})
        serve.run(build(options), name=name, route_prefix="/")
        log("ready", http=f"http://{host}:{port}", application=name)
        stop.wait()
        log("draining")
    finally:
        if address is None:
            serve.shutdown()  # type: ignore[no-untyped-call]
        else:
            serve.delete(name)
        ray.shutdown()
    log("stopped")
    flush()
