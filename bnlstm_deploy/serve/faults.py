"""Which status an error is: one table for REST, gRPC, metrics and logs."""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

import orjson
from grpc import StatusCode

from bnlstm_deploy.errors import (
    BnlstmError,
    DeadlineError,
    InputError,
    OverloadedError,
    RuntimeSessionError,
    SequenceError,
    ServingError,
)
from bnlstm_deploy.serve.logs import LOGGER

CLIENT_GONE = 499
"""The status that logs have for a client that did not wait; there is nobody to send it to."""

RETRY_AFTER = b"1"
"""Seconds after which to repeat what was refused with 503."""


class TooLargeError(ServingError):
    """The body of a request is larger than the limit."""


class SlowError(ServingError):
    """The body of a request did not arrive in time."""


class UnauthorizedError(ServingError):
    """A request has no token, or a wrong one."""


class HostError(ServingError):
    """A request names another host than this machine, as one from another site's page does."""


class UnknownModelError(ServingError):
    """There is no such model, or not in this version."""


class NotReadyError(ServingError):
    """A model is not warm."""


class PathError(ServingError):
    """There is nothing at this path."""


class MethodError(ServingError):
    """There is something at this path, for other methods."""


class ClientGoneError(ServingError):
    """The client did not wait."""


class Fault(NamedTuple):
    """What became of a request that failed."""

    reason: str
    """The label in metrics and logs."""
    status: int
    """Of HTTP."""
    code: StatusCode
    """Of gRPC."""


_GONE = Fault("cancelled", CLIENT_GONE, StatusCode.CANCELLED)
_INTERNAL = Fault("internal", HTTPStatus.INTERNAL_SERVER_ERROR, StatusCode.INTERNAL)

_FAULTS: Mapping[type[BaseException], Fault] = {
    InputError: Fault("invalid", HTTPStatus.BAD_REQUEST, StatusCode.INVALID_ARGUMENT),
    SequenceError: Fault("sequence", HTTPStatus.BAD_REQUEST, StatusCode.FAILED_PRECONDITION),
    UnauthorizedError: Fault("token", HTTPStatus.UNAUTHORIZED, StatusCode.UNAUTHENTICATED),
    HostError: Fault("host", HTTPStatus.MISDIRECTED_REQUEST, StatusCode.PERMISSION_DENIED),
    UnknownModelError: Fault("unknown_model", HTTPStatus.NOT_FOUND, StatusCode.NOT_FOUND),
    PathError: Fault("path", HTTPStatus.NOT_FOUND, StatusCode.UNIMPLEMENTED),
    MethodError: Fault("path", HTTPStatus.METHOD_NOT_ALLOWED, StatusCode.UNIMPLEMENTED),
    SlowError: Fault("slow", HTTPStatus.REQUEST_TIMEOUT, StatusCode.DEADLINE_EXCEEDED),
    TooLargeError: Fault(
        "too_large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, StatusCode.RESOURCE_EXHAUSTED
    ),
    asyncio.CancelledError: _GONE,
    ClientGoneError: _GONE,
    OverloadedError: Fault("overloaded", HTTPStatus.SERVICE_UNAVAILABLE, StatusCode.UNAVAILABLE),
    DeadlineError: Fault("deadline", HTTPStatus.SERVICE_UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED),
    NotReadyError: Fault("not_ready", HTTPStatus.SERVICE_UNAVAILABLE, StatusCode.UNAVAILABLE),
}


_SENT = {
    kind.__name__: kind
    for kind in (
        *(InputError, SequenceError, OverloadedError, DeadlineError),
        *(NotReadyError, UnknownModelError),
    )
}
"""Errors that stay what they are from one process of a server to the other."""


def to_words(error: Exception) -> tuple[str, str]:
    """Return an error for another process: its class and its text; log one nobody expected."""
    if type(error).__name__ not in _SENT:
        LOGGER.error("internal error", exc_info=error)
    return type(error).__name__, str(error)


def from_words(words: tuple[str, str]) -> BnlstmError:
    """Return another process' error; one that nobody expected is internal here, too."""
    kind, text = words
    return _SENT.get(kind, RuntimeSessionError)(text)


def fault_of(error: BaseException) -> Fault:
    """Return what an error is to a client; one that nobody expected is internal."""
    return next((fault for kind, fault in _FAULTS.items() if isinstance(error, kind)), _INTERNAL)


def message_of(error: BaseException) -> str:
    """Return the text for a client; an internal error is logged, and no more than its kind told."""
    if fault_of(error) is _INTERNAL:
        LOGGER.error("internal error", exc_info=error)
        return f"internal error ({type(error).__name__}); the server's log has it in full"
    return str(error)


def answer_to(error: BaseException) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """Return the protocol's answer to a request that failed: status, body and headers of HTTP."""
    status = fault_of(error).status
    headers = [(b"content-type", b"application/json")]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", RETRY_AFTER))
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    return status, orjson.dumps({"error": message_of(error)}), headers
