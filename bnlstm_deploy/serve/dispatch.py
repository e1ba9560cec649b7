"""Where a request runs."""

import asyncio
from concurrent.futures import Future
from typing import TypeVar

from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.inference import InferRequest
from bnlstm_deploy.serve.records import Records
from bnlstm_deploy.serve.stats import ServerStats
from bnlstm_deploy.signature import Array

T = TypeVar("T")


async def _awaited(future: Future[T]) -> T:
    """Await what another thread computes; cancel it with the caller.

    As `asyncio.wrap_future` does, in half its time, for it looks for nothing that cannot be here.
    """
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def wake() -> None:
        if not done.done():
            done.set_result(None)

    future.add_done_callback(lambda _: loop.call_soon_threadsafe(wake))
    try:
        await done
    except asyncio.CancelledError:
        future.cancel()
        raise
    return future.result()


class Dispatcher:
    """Runs requests in this process, which is all of the server.

    Args:
        records: Of this process.

    Attributes:
        alone: Whether this process is all of the server.
    """

    alone = True

    def __init__(self, records: Records) -> None:
        self.records = records

    async def start(self) -> None:
        """Begin; nothing runs before."""

    async def stop(self) -> None:
        """End, when no more requests come."""

    async def infer(self, engine: Engine, request: InferRequest) -> dict[str, Array]:
        """Return the outputs of a request in their order; if the caller is cancelled, so is it.

        Raises:
            InputError: The request does not fit the model.
            SequenceError: It continues a sequence that the server does not hold.
            OverloadedError: The queue is full.
            DeadlineError: There was no answer in time.
        """
        # The request may have been read for long, and another engine be there instead by now.
        engine = self.records.models.find(engine.name, engine.version) or engine
        future = engine.submit(
            request.arrays,
            outputs=request.outputs,
            sequence=request.chunk,
            timeout=request.timeout,
        )
        results = await _awaited(future)
        names = request.outputs or [value.name for value in engine.outputs]
        return {name: results[name] for name in names if name in results}

    async def stats(self) -> ServerStats:
        """Return what the server did so far."""
        return self.records.stats()

    async def load(self, name: str) -> None:
        """Open the files of a model anew.

        Raises:
            InputError: It may not be loaded, or cannot be.
            UnknownModelError: There are no files of it.
        """
        await self.records.models.load(name)

    async def unload(self, name: str) -> None:
        """Drop a model.

        Raises:
            InputError: It may not be unloaded.
            UnknownModelError: There is none.
        """
        await self.records.models.unload(name)
