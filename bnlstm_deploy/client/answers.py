"""What an answer that is no result means."""

import json
from http import HTTPStatus
from typing import NamedTuple

from bnlstm_deploy.errors import (
    DeadlineError,
    InputError,
    OverloadedError,
    SequenceError,
    ServingError,
)

SHOWN = 500
"""Characters of an answer that are passed on, if it is not the protocol's."""


NO_SEQUENCE = ("anew from its start", "must specify the START flag")
"""What this package's server and Triton say of a sequence that they do not hold.

The protocol has one status for all that is wrong with a request, so it is the text that tells.
"""


class UnsentError(ServingError):
    """No connection could be made, so the server has not seen the request."""


class LostError(ServingError):
    """The connection broke before the answer was there; the server may have seen the request."""


class LateError(LostError, DeadlineError):
    """The answer was not there in time; the server may have seen the request."""


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    json_length: int | None
    """Bytes of JSON before the binary tensors; None if all of it is JSON."""
    body: bytes


def check(answer: Answer) -> None:
    """Raise what an answer says, unless it is a result.

    Raises:
        InputError: The request is not valid, or too large.
        SequenceError: The server does not hold the sequence.
        OverloadedError: The server refused the request; it may be repeated.
        LostError: Something between here and the server lost the server, or its answer.
        ServingError: The server cannot answer: no such model, no valid token, a fault in it.
    """
    status = answer.status
    if status == HTTPStatus.OK:
        return
    message = _message(answer)
    if message is None:
        words = f"{status} {answer.body.decode(errors='replace').strip()[:SHOWN]}".rstrip()
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise LostError(f"something before the server answered with HTTP status {words}")
        raise ServingError(f"the answer is HTTP status {words}; look at the address")
    if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
        gone = any(words in message for words in NO_SEQUENCE)
        raise SequenceError(message) if gone else InputError(message)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        raise OverloadedError(message)
    raise ServingError(message)


def _message(answer: Answer) -> str | None:
    """Return the server's text; None if it is not the protocol's, so not the server's own."""
    try:
        return str(json.loads(answer.body)["error"])
    except (ValueError, LookupError, TypeError):
        return None
