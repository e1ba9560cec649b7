"""The least number for which something can be had."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def least(attempt: Callable[[int], T | None], most: int) -> T | None:
    """Return what the least number gives: doubled until one gives something, then the gap halved.

    Args:
        attempt: Of a number from 1 on; None for nothing.
        most: The largest number that is tried.
    """
    passed, number, found = 0, 1, None
    while passed < most and (found := attempt(number)) is None:
        passed, number = number, min(2 * number, most)
    while found is not None and number - passed > 1:
        middle = (passed + number) // 2
        sooner = attempt(middle)
        if sooner is None:
            passed = middle
        else:
            number, found = middle, sooner
    return found
