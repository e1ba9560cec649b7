"""Trying again: how often, and after which waits."""

import random
import time

import pytest

from bnlstm_deploy.client.answers import LostError
from bnlstm_deploy.client.retry import REFUSED, REPEATABLE, persist
from bnlstm_deploy.errors import OverloadedError


def test_waits_are_random_below_a_bound_that_doubles(monkeypatch):
    bounds, slept = [], []

    def uniform(low, high):
        assert low == 0
        bounds.append(high)
        return high / 3

    monkeypatch.setattr(random, "uniform", uniform)
    monkeypatch.setattr(time, "sleep", slept.append)

    def send(left):
        raise OverloadedError("busy")

    with pytest.raises(OverloadedError, match="busy; tried 9 times"):
        persist(send, again=REPEATABLE, timeout=1000, retries=8)
    assert bounds[:8] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2, 2]
    assert slept == [bound / 3 for bound in bounds[:8]]


def test_what_may_have_been_done_is_not_repeated_unless_it_may_be(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    tried = []

    def send(left):
        tried.append(left)
        raise LostError("lost")

    with pytest.raises(LostError):
        persist(send, again=REFUSED, timeout=10, retries=None)
    assert len(tried) == 1
    with pytest.raises(LostError):
        persist(send, again=REPEATABLE, timeout=10, retries=2)
    assert len(tried) == 1 + 3
