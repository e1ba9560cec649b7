"""Trying again."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from bnlstm_deploy.client.answers import LostError, UnsentError
from bnlstm_deploy.errors import OverloadedError, ServingError

Result = TypeVar("Result")

Failures = tuple[type[ServingError], ...]

REFUSED: Failures = (UnsentError, OverloadedError)
"""What the server has not done: trying again cannot do it twice."""

REPEATABLE: Failures = (*REFUSED, LostError)
"""What may be tried again if doing it twice does no harm."""

FIRST_WAIT, LONGEST_WAIT = 0.05, 2.0
"""Seconds before the second attempt, and before late ones, at most."""


def persist(
    send: Callable[[float], Result], *, again: Failures, timeout: float, retries: int | None
) -> Result:
    """Send something until there is a result.

    The waits double, and each is random below its bound, so that clients that failed together do
    not come back together.

    Args:
        send: Takes the seconds that are left.
        again: The failures after which to try again.
        timeout: Seconds for all attempts together.
        retries: How often to try again at most; None for as long as there is time.

    Raises:
        ServingError: The failure of the last attempt, or one that is not in `again`.
        BnlstmError: Any other error of `send`.
    """
    end = time.monotonic() + timeout
    tried, bound = 1, FIRST_WAIT
    while True:
        try:
            return send(max(end - time.monotonic(), 0.001))
        except again as error:
            wait = random.uniform(0, bound)
            if tried - 1 == retries or time.monotonic() + wait >= end:
                if tried == 1:
                    raise
                raise type(error)(f"{error}; tried {tried} times") from error
        time.sleep(wait)
        tried, bound = tried + 1, min(2 * bound, LONGEST_WAIT)
