"""Logs of a server: one JSON object a line on stderr, and never a tensor's data."""

import logging
import sys
from datetime import UTC, datetime

import orjson

LOGGER = logging.getLogger("bnlstm_deploy.serve")

QUIET = ("kserve", "uvicorn", "uvicorn.error", "uvicorn.access", "grpc", "asyncio")
"""Loggers of libraries: of these warnings and errors only."""


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON; its `fields` become keys."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(fields, default=str).decode()


def configure() -> None:
    """Send the logs of this process to stderr as JSON."""
    # What no line has is not looked up for each: a line a request is a tenth of its time.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    LOGGER.setLevel(logging.INFO)
    for name in QUIET:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.WARNING)


def log(event: str, level: int = logging.INFO, **fields: object) -> None:
    """Write one line."""
    LOGGER.log(level, event, extra={"fields": fields})
