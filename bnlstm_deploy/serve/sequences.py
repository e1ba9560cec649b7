"""States that the server holds: the sequence extension of the Open Inference Protocol."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

from bnlstm_deploy.errors import InputError, OverloadedError, SequenceError
from bnlstm_deploy.serve.limits import Limits
from bnlstm_deploy.signature import Array, Signature


class Chunk(NamedTuple):
    """Which chunk of which sequence a request is."""

    sequence_id: int | str
    start: bool
    """Begins the sequence anew, whether or not there is one of this id."""
    end: bool
    """Is the last: its state is dropped afterwards."""


@dataclass
class _Held:
    feeds: Mapping[str, Array]
    streams: int
    used: float


class Sequences:
    """The states of one model's sequences, by id.

    A sequence is dropped by its last chunk, or `sequence_idle` seconds after the latest one. A
    chunk that fails leaves the state as it was, and may be sent again. Safe to use from threads.

    Args:
        signature: The model's.
        limits: How many there may be, and how long they are kept.
        clock: Seconds; replaced in tests.
    """

    def __init__(
        self, signature: Signature, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._signature = signature
        self._limits = limits
        self._clock = clock
        self._held: OrderedDict[int | str, _Held] = OrderedDict()
        self._starting: dict[int | str, int] = {}
        self._total = 0
        self._lock = Lock()

    def __len__(self) -> int:
        with self._lock:
            self._expire()
            return len(self._held)

    def check(self, chunk: Chunk, streams: int, given: Mapping[str, Array]) -> None:
        """Check a chunk as it arrives, and keep its sequence from expiring while it waits.

        Args:
            chunk: Which it is.
            streams: N.
            given: Its arrays by input name.

        Raises:
            InputError: The model cannot continue streams, a state is given to a later chunk, or
                the chunk has more streams than are held of all sequences.
        """
        if not self._signature.streams:
            own = "a model that passes states to its BNLSTM itself"
            why = next(iter(self._signature.whole.values()), own)
            raise InputError(f"this is {why}. Send whole sequences, without sequence_id")
        if streams > self._limits.max_sequences:
            raise InputError(
                f"{streams} streams are more than the server's max_sequences of "
                f"{self._limits.max_sequences}; carry the states in the client"
            )
        states = sorted(self._signature.carried.keys() & given.keys())
        if states and not chunk.start:
            raise InputError(
                f"{states[0]!r} is given for sequence {chunk.sequence_id!r}, whose state the "
                "server holds; give it with sequence_start only"
            )
        with self._lock:
            self._expire()
            if chunk.sequence_id in self._held:
                self._touch(chunk.sequence_id)

    def state(self, chunk: Chunk, streams: int) -> Mapping[str, Array]:
        """Return what a chunk is to be fed besides its own inputs.

        Raises:
            SequenceError: There is no sequence of this id, or there is one no more.
            OverloadedError: A new sequence is one too many.
            InputError: The chunk has another number of streams than the sequence.
        """
        with self._lock:
            self._expire()
            held = self._held.get(chunk.sequence_id)
            if chunk.start:
                others = self._total + sum(self._starting.values())
                others -= self._starting.get(chunk.sequence_id, 0)
                others -= 0 if held is None else held.streams
                if others + streams > self._limits.max_sequences:
                    raise OverloadedError(
                        f"{others} streams of sequences are held; the limit max_sequences is "
                        f"{self._limits.max_sequences}. End some, or carry the states in the client"
                    )
                self._starting[chunk.sequence_id] = streams
                return {}
            if held is None:
                raise SequenceError(
                    f"there is no sequence {chunk.sequence_id!r}: it was not started, was ended, "
                    f"or had no chunk for {self._limits.sequence_idle:g} s; send it anew from its "
                    "start, with sequence_start"
                )
            if held.streams != streams:
                raise InputError(
                    f"sequence {chunk.sequence_id!r} has {held.streams} streams, this chunk "
                    f"{streams}; they must agree"
                )
            return held.feeds

    def keep(self, chunk: Chunk, streams: int, results: Mapping[str, Array]) -> None:
        """Take over the state after a chunk that was computed."""
        with self._lock:
            self._starting.pop(chunk.sequence_id, None)
            self._drop(chunk.sequence_id)
            if chunk.end:
                return
            feeds = {given: results[result] for given, result in self._signature.carried.items()}
            self._held[chunk.sequence_id] = _Held(feeds, streams, self._clock())
            self._total += streams

    def fail(self, chunk: Chunk) -> None:
        """Leave everything as it was before a chunk that could not be computed."""
        with self._lock:
            self._starting.pop(chunk.sequence_id, None)

    def holds(self, sequence_id: int | str) -> bool:
        """Return whether a sequence is held."""
        with self._lock:
            self._expire()
            return sequence_id in self._held

    def forget(self, sequence_id: int | str) -> None:
        """Drop a sequence, if it is held."""
        with self._lock:
            self._drop(sequence_id)

    def take_over(self, other: "Sequences") -> None:
        """Hold what others held, which hold nothing from then on."""
        with self._lock, other._lock:
            for sequence_id, held in other._held.items():
                self._drop(sequence_id)
                self._held[sequence_id] = held
                self._total += held.streams
            other._held.clear()
            other._total = 0

    def _drop(self, sequence_id: int | str) -> None:
        held = self._held.pop(sequence_id, None)
        self._total -= 0 if held is None else held.streams

    def _touch(self, sequence_id: int | str) -> None:
        self._held[sequence_id].used = self._clock()
        self._held.move_to_end(sequence_id)

    def _expire(self) -> None:
        """Drop what was not used for long; the first are those used least recently."""
        oldest = self._clock() - self._limits.sequence_idle
        while self._held and next(iter(self._held.values())).used < oldest:
            self._drop(next(iter(self._held)))
