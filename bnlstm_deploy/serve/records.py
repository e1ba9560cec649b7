"""What is counted and logged of each request, whatever protocol it came by."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from bnlstm_deploy.serve.faults import Fault, fault_of
from bnlstm_deploy.serve.logs import LOGGER, log
from bnlstm_deploy.serve.metrics import LABELS, EngineCollector
from bnlstm_deploy.serve.plane import Plane, key
from bnlstm_deploy.serve.stats import BOUNDS

MAX_ID = 128
"""Characters of a request's id in logs."""


@dataclass
class Record:
    """One inference request, as the log will have it."""

    protocol: str
    """`rest` or `grpc`."""
    model: str
    """Empty if the server has no such model: clients must not choose the metrics' labels."""
    version: str
    id: str = ""


class Records:
    """Counts and logs the requests to a server's models.

    Args:
        plane: The models.

    Attributes:
        registry: The metrics, for Prometheus.
    """

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(EngineCollector(plane.engines))
        self._requests = Counter(
            "bnlstm_requests", "Inference requests.", LABELS, registry=self.registry
        )
        self._failures = Counter(
            "bnlstm_request_failures",
            "Inference requests that were answered with an error, or left by their client.",
            (*LABELS, "reason"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "bnlstm_request_seconds",
            "From a request's header to its answer, of those answered without an error.",
            LABELS,
            buckets=BOUNDS,
            registry=self.registry,
        )
        for engine in plane.engines:
            self._requests.labels(engine.name, engine.version)
            self._seconds.labels(engine.name, engine.version)

    def refused(self, error: BaseException) -> None:
        """Count and log a request that was refused before it was known what it asks."""
        self._write(Record("rest", "", ""), 0.0, fault_of(error))

    @contextmanager
    def request(self, protocol: str, name: str, version: str | None) -> Iterator[Record]:
        """Count and log what happens inside as one request; errors pass through."""
        model = self.plane.model_registry.get_model(key(name, version))
        known = ("", "") if model is None else (model.engine.name, model.engine.version)
        record = Record(protocol, *known)
        start = time.perf_counter()
        fault: Fault | None = None
        try:
            yield record
        except BaseException as error:
            fault = fault_of(error)
            if fault.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                LOGGER.error("internal error", exc_info=error)
            raise
        finally:
            self._write(record, time.perf_counter() - start, fault)

    def _write(self, record: Record, seconds: float, fault: Fault | None) -> None:
        labels = (record.model, record.version)
        self._requests.labels(*labels).inc()
        if fault is None:
            self._seconds.labels(*labels).observe(seconds)
        else:
            self._failures.labels(*labels, fault.reason).inc()
        log(
            "request",
            id=record.id[:MAX_ID],
            protocol=record.protocol,
            model=record.model,
            version=record.version,
            status=int(HTTPStatus.OK if fault is None else fault.status),
            seconds=round(seconds, 6),
            **({} if fault is None else {"reason": fault.reason}),
        )
