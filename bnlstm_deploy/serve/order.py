"""The sequences of a gRPC stream: their requests in their order, and none after one that failed."""

import contextlib
from asyncio import Lock
from collections.abc import AsyncIterator
from weakref import WeakValueDictionary

from bnlstm_deploy.errors import SequenceError
from bnlstm_deploy.serve.sequences import Chunk


class Order:
    """Which requests of a stream may run.

    A client sends the chunks of a sequence without waiting for answers. If one fails, so do those
    that follow, until one begins the sequence anew: else they would be computed from a state that
    lacks it.

    Attributes:
        reading: Held by the one request that is being read, as they come in turn.
    """

    def __init__(self) -> None:
        self.reading = Lock()
        self._running: WeakValueDictionary[int | str, Lock] = WeakValueDictionary()
        self._broken: set[int | str] = set()
        self._lost = False
        self._begun: set[int | str] = set()

    def lose(self) -> None:
        """Note that a request could not be read, which may have been of any sequence."""
        self._lost = True
        self._begun.clear()

    @contextlib.asynccontextmanager
    async def turn(self, chunk: Chunk | None) -> AsyncIterator[None]:
        """Wait until those before a chunk are answered; fail those after it if what is done fails.

        Args:
            chunk: What was read last; None needs no turn.

        Raises:
            SequenceError: One before it failed.
        """
        if chunk is None:
            yield
            return
        name = chunk.sequence_id
        if chunk.start and self._lost:
            self._begun.add(name)
        lacks_some = self._lost and name not in self._begun
        async with self._running.setdefault(name, Lock()):
            if chunk.start:
                self._broken.discard(name)
            elif lacks_some or name in self._broken:
                raise SequenceError(
                    f"a request before this one failed that was of sequence {name!r}, or could not "
                    "be read; send the sequence anew from its start, with sequence_start"
                )
            try:
                yield
            except BaseException:  # it may have been cancelled, too
                self._broken.add(name)
                raise
