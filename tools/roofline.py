"""What no implementation can beat on this machine: its caches' bandwidth and its peak arithmetic.

Both are measured by what is installed: bandwidth by torch's sum of a float32 array, read again and
again in one call; the peak by torch's product of large float32 matrices.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tools.peers import Size

SIDE = 1024
"""Of the square matrices whose product is the peak."""

READ = 100_000_000
"""Bytes that one call reads, so that the call itself costs nothing."""

ROUNDS = 5


@dataclass(frozen=True)
class Roof:
    """The least time of a timestep at one size and number of threads."""

    weight_bytes: int
    """Of both matrices, read in each timestep."""
    gb_per_s: float
    """At which an array of that size is read again and again, or one of half the size if that is
    faster: who goes to and fro finds the half in a cache."""
    gflop_per_s: float
    """The peak, of multiplications and additions."""
    us_per_timestep: float
    """The larger of the time to read the weights and the time to multiply with them."""


def measure_roof(size: Size, threads: int) -> Roof:
    """Measure the roof of one size.

    Args:
        size: Of the model and its input.
        threads: That torch uses.
    """
    torch.set_num_threads(threads)
    weights = 4 * size.H * (size.H + size.D)
    matrix = torch.rand(SIDE, SIDE)
    bandwidth = max(_bandwidth(4 * weights), _bandwidth(2 * weights))
    peak = 2 * SIDE**3 / _least_seconds(lambda: matrix @ matrix)
    seconds = max(4 * weights / bandwidth, 2 * size.N * weights / peak)
    return Roof(4 * weights, bandwidth / 1e9, peak / 1e9, seconds * 1e6)


def _bandwidth(size: int) -> float:
    """Return at how many bytes a second an array of that many is read."""
    array = torch.rand(size // 4)
    again = array.expand(max(1, READ // size), -1)
    return again.numel() * 4 / _least_seconds(again.sum)


def _least_seconds(run: Callable[[], object]) -> float:
    """Return the least time of a call."""
    run()
    least = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        least = min(least, time.perf_counter() - start)
    return least
