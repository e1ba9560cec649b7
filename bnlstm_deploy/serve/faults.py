"""Which status an error is: one table for REST, gRPC, metrics and logs."""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from grpc import StatusCode
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady, ServerNotReady
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from bnlstm_deploy.errors import (
    DeadlineError,
    InputError,
    OverloadedError,
    SequenceError,
    ServingError,
)

CLIENT_GONE = 499
"""The status that logs have for a client that did not wait; there is nobody to send it to."""

RETRY_AFTER = "1"
"""Seconds after which to repeat what was refused with 503."""


class TooLargeError(ServingError):
    """The body of a request is larger than the limit."""


class SlowError(ServingError):
    """The body of a request did not arrive in time."""


class UnauthorizedError(ServingError):
    """A request has no token, or a wrong one."""


class Fault(NamedTuple):
    """What became of a request that failed."""

    reason: str
    """The label in metrics and logs."""
    status: int
    """Of HTTP."""
    code: StatusCode
    """Of gRPC."""


_INVALID = Fault("invalid", HTTPStatus.BAD_REQUEST, StatusCode.INVALID_ARGUMENT)
_NOT_READY = Fault("not_ready", HTTPStatus.SERVICE_UNAVAILABLE, StatusCode.UNAVAILABLE)
_GONE = Fault("cancelled", CLIENT_GONE, StatusCode.CANCELLED)
_INTERNAL = Fault("internal", HTTPStatus.INTERNAL_SERVER_ERROR, StatusCode.INTERNAL)

_FAULTS: Mapping[type[BaseException], Fault] = {
    InputError: _INVALID,
    InvalidInput: _INVALID,
    RequestValidationError: _INVALID,
    SequenceError: Fault("sequence", HTTPStatus.BAD_REQUEST, StatusCode.FAILED_PRECONDITION),
    UnauthorizedError: Fault("token", HTTPStatus.UNAUTHORIZED, StatusCode.UNAUTHENTICATED),
    ModelNotFound: Fault("unknown_model", HTTPStatus.NOT_FOUND, StatusCode.NOT_FOUND),
    SlowError: Fault("slow", HTTPStatus.REQUEST_TIMEOUT, StatusCode.DEADLINE_EXCEEDED),
    TooLargeError: Fault(
        "too_large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, StatusCode.RESOURCE_EXHAUSTED
    ),
    asyncio.CancelledError: _GONE,
    ClientDisconnect: _GONE,
    OverloadedError: Fault("overloaded", HTTPStatus.SERVICE_UNAVAILABLE, StatusCode.UNAVAILABLE),
    DeadlineError: Fault("deadline", HTTPStatus.SERVICE_UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED),
    ModelNotReady: _NOT_READY,
    ServerNotReady: _NOT_READY,
}


def fault_of(error: BaseException) -> Fault:
    """Return what an error is to a client; one that nobody expected is internal."""
    if isinstance(error, HTTPException):
        return Fault("path", error.status_code, StatusCode.UNIMPLEMENTED)
    return next((fault for kind, fault in _FAULTS.items() if isinstance(error, kind)), _INTERNAL)


def message_of(error: BaseException) -> str:
    """Return the text for a client; of an internal error no more than its kind."""
    if fault_of(error) is _INTERNAL:
        return f"internal error ({type(error).__name__}); the server's log has it in full"
    if isinstance(error, HTTPException):
        return str(error.detail)
    return str(error)


def answer(error: BaseException) -> JSONResponse:
    """Return the protocol's answer to a request that failed: `{"error": text}`."""
    status = fault_of(error).status
    headers = dict(getattr(error, "headers", None) or {})
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = RETRY_AFTER
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": message_of(error)}, status, headers)
