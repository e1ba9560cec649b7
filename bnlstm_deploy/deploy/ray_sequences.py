"""Sequences on a cluster, by whatever client: each is in one replica, and of one incarnation.

A client of the protocol says no more than an id, and whether it begins or ends the sequence. So a
replica sends what begins a sequence to the one that consistent hashing gives its id, and what goes
on to the same, unless it holds the sequence itself.

When replicas come or go, an id may get another replica, which refuses what goes on; the client
begins the sequence anew there; and when they go or come again, the first replica may be asked for
it once more. Its state is of a sequence that is over. So each beginning has a number, and a replica
answers from a state only if that is of the latest beginning of its id.
"""

import time
from collections import OrderedDict
from typing import Any, NamedTuple

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from bnlstm_deploy.errors import OverloadedError, SequenceError
from bnlstm_deploy.serve.dispatch import Dispatcher
from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.faults import from_words, to_words
from bnlstm_deploy.serve.inference import InferRequest
from bnlstm_deploy.serve.records import Records
from bnlstm_deploy.signature import Array

MOST = 1_000_000
"""Sequences whose latest beginning is known; those asked for least recently are over."""


class Name(NamedTuple):
    """A sequence of a model."""

    model: str
    version: str
    sequence_id: int | str


class Incarnations:
    """The latest beginning of each sequence: one for all replicas of an application.

    If it is lost, so is what it knew: then all sequences are over, and none is wrong.
    """

    def __init__(self) -> None:
        self._latest: OrderedDict[Name, int] = OrderedDict()
        self._next = time.time_ns()  # above all that one before it gave

    def begin(self, name: Name) -> int:
        """Return the number of a new beginning."""
        self._next += 1
        self._latest[name] = self._next
        self._latest.move_to_end(name)
        if len(self._latest) > MOST:
            self._latest.popitem(last=False)
        return self._next

    def is_latest(self, name: Name, number: int) -> bool:
        """Return whether a beginning is the latest of its sequence."""
        if self._latest.get(name) != number:
            return False
        self._latest.move_to_end(name)
        return True


class Routed(Dispatcher):
    """Runs requests in this replica, but those of sequences in the one that holds them.

    Args:
        records: Of this replica.
        own: The deployment that this is a replica of.
        incarnations: That of `Incarnations`.
    """

    def __init__(
        self, records: Records, *, own: DeploymentHandle[Any], incarnations: DeploymentHandle[Any]
    ) -> None:
        super().__init__(records)
        self._own, self._incarnations = own, incarnations
        self._begun: OrderedDict[Name, int] = OrderedDict()
        self._sent = 0

    async def infer(self, engine: Engine, request: InferRequest) -> dict[str, Array]:
        """Return the outputs of a request, from the replica that holds its sequence.

        Raises:
            SequenceError: There is none that does.
            BnlstmError: As `Dispatcher.infer`.
        """
        chunk = request.chunk
        if chunk is None:
            return await super().infer(engine, request)
        if not chunk.start and engine.sequences.holds(chunk.sequence_id):
            return await self._infer_held(engine, request)
        if self._sent >= engine.limits.max_queue:
            raise OverloadedError(
                f"{self._sent} requests wait for other replicas, which is max_queue; try again "
                "later"
            )
        self._sent += 1
        try:
            holder = self._own.options(session_id=str(chunk.sequence_id))
            results, error = await holder.infer_held.remote(engine.name, engine.version, request)
        except (RayError, RayServeException) as failed:
            raise SequenceError(
                f"the replica that holds sequence {chunk.sequence_id!r} was lost; send it anew "
                "from its start, with sequence_start"
            ) from failed
        finally:
            self._sent -= 1
        if error is not None:
            raise from_words(error)
        held: dict[str, Array] = results
        return held

    async def infer_here(
        self, model: str, version: str, request: InferRequest
    ) -> tuple[dict[str, Array] | None, tuple[str, str] | None]:
        """Answer another replica: the outputs, or the words of an error."""
        try:
            return await self._infer_held(self.records.models.open(model, version), request), None
        except Exception as error:
            return None, to_words(error)

    async def _infer_held(self, engine: Engine, request: InferRequest) -> dict[str, Array]:
        chunk = request.chunk
        assert chunk is not None
        name = Name(engine.name, engine.version, chunk.sequence_id)
        if chunk.start:
            self._begun[name] = await self._ask("begin", name)
            self._begun.move_to_end(name)
            if len(self._begun) > 2 * engine.limits.max_sequences:
                self._begun.popitem(last=False)
        elif not await self._ask("is_latest", name, self._begun.get(name, 0)):
            engine.sequences.forget(chunk.sequence_id)
        return await super().infer(engine, request)

    async def _ask(self, method: str, *arguments: object) -> Any:  # noqa: ANN401
        try:
            return await getattr(self._incarnations, method).remote(*arguments)
        except (RayError, RayServeException) as error:
            raise OverloadedError(
                "the cluster has lost what knows its sequences, and starts it anew; try again later"
            ) from error


deployment = serve.deployment(name="Incarnations", num_replicas=1)(Incarnations)
"""One for an application; it needs next to nothing."""
