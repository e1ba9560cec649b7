"""What is counted and logged of each request, whatever protocol it came by."""

import secrets
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from itertools import count

from bnlstm_deploy.serve.faults import Fault, fault_of
from bnlstm_deploy.serve.logs import dropped_lines, log
from bnlstm_deploy.serve.models import Models
from bnlstm_deploy.serve.stats import Durations, ModelStats, RequestCounter, ServerStats

MAX_ID = 128
"""Characters of a request's id in logs."""


@dataclass(slots=True)
class Record:
    """One inference request, as the log will have it."""

    protocol: str
    """`rest` or `grpc`."""
    model: str
    """Empty if the server has no such model: clients must not choose the metrics' labels."""
    version: str
    id: str = ""


class Records:
    """Counts and logs the requests to a server's models, in the thread of its event loop.

    Args:
        models: The models.

    Attributes:
        connections: HTTP connections that are open.
        refused_connections: Those that were closed at once.
        loop_delay: How late the event loop was, looked at ten times a second.
    """

    def __init__(self, models: Models) -> None:
        self.models = models
        self.connections = self.refused_connections = 0
        self.loop_delay = Durations()
        self._prefix = secrets.token_hex(8)
        self._numbers = count()
        self._counters: defaultdict[tuple[str, str], RequestCounter] = defaultdict(RequestCounter)

    def new_id(self) -> str:
        """Return a name for a request that has none."""
        return f"{self._prefix}-{next(self._numbers)}"

    def refused(self, protocol: str, error: BaseException) -> None:
        """Count and log a request that was refused before it was known what it asks."""
        self._write(Record(protocol, "", ""), 0.0, fault_of(error))

    @contextmanager
    def request(
        self, protocol: str, name: str, version: str | None, id: str = ""
    ) -> Iterator[Record]:
        """Count and log what happens inside as one request; errors pass through."""
        engine = self.models.find(name, version)
        known = ("", "") if engine is None else (engine.name, engine.version)
        record = Record(protocol, *known, id)
        start = time.perf_counter()
        fault: Fault | None = None
        try:
            yield record
        except BaseException as error:
            fault = fault_of(error)
            raise
        finally:
            self._write(record, time.perf_counter() - start, fault)

    def stats(self) -> ServerStats:
        """Return what this process did so far."""
        engines = {(e.name, e.version): e for e in self.models.engines}
        keys = sorted({*engines, *self._counters})
        models = [
            ModelStats(
                *key,
                ready=key in engines and self.models.takes(*key),
                requests=self._counters[key].requests(),
                engine=engines[key].stats() if key in engines else None,
            )
            for key in keys
        ]
        return ServerStats(
            tuple(models),
            self.connections,
            self.refused_connections,
            dropped_lines(),
            self.loop_delay.histogram(),
        )

    def _write(self, record: Record, seconds: float, fault: Fault | None) -> None:
        reason = None if fault is None else fault.reason
        self._counters[record.model, record.version].add(seconds, reason)
        log(
            "request",
            id=record.id[:MAX_ID],
            protocol=record.protocol,
            model=record.model,
            version=record.version,
            status=int(HTTPStatus.OK if fault is None else fault.status),
            seconds=round(seconds, 6),
            **({} if reason is None else {"reason": reason}),
        )
