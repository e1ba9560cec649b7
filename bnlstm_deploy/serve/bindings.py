"""Runs of a session on a GPU, in memory that is kept for their sizes."""

from collections import OrderedDict
from collections.abc import Mapping

from bnlstm_deploy.runtime import Session
from bnlstm_deploy.runtime.binding import Binding
from bnlstm_deploy.runtime.inputs import check_feeds
from bnlstm_deploy.signature import BATCH, TIME, Array

KEPT = 16
"""Bindings of a session; those used least recently are dropped."""


class Bindings:
    """Runs a session as `Session.run` does, through a `Binding` for each size.

    Host memory is pinned then, and a run allocates nothing. The number of streams is rounded up to
    a power of two, for batches of all sizes to share a few bindings.

    Args:
        session: The session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        values = (*session.inputs, *session.outputs, *session.state_outputs)
        self._has_sizes = all(
            value.dtype is not None
            and all(isinstance(axis, int) or axis in (BATCH, TIME) for axis in value.shape)
            for value in values
        )
        self._bindings: OrderedDict[tuple[int, int], Binding] = OrderedDict()

    def run(self, feeds: Mapping[str, Array], *, keep_memory: bool = True) -> dict[str, Array]:
        """Run the graph; return all outputs by name.

        Args:
            feeds: Arrays by name.
            keep_memory: As of `Session.run`, where no binding can be used.

        Raises:
            InputError: The arrays do not fit the graph.
            RuntimeSessionError: ONNX Runtime fails on the graph, or memory cannot be allocated.
        """
        session, signature = self._session, self._session.signature
        check_feeds(feeds, signature)
        sizes = signature.sizes(feeds)
        batch, time = sizes.get(BATCH, 0), sizes.get(TIME, 0)
        if not self._has_sizes or min(batch, time) < 1:
            return session.run(feeds, keep_memory=keep_memory)
        some = any(name in feeds for name in signature.carried)
        if some and not (signature.streams and signature.carried.keys() <= feeds.keys()):
            return session.run(feeds, keep_memory=keep_memory)
        binding = self._binding(1 << (batch - 1).bit_length(), time)
        return binding.run_once(feeds, sizes, (*session.outputs, *session.state_outputs))

    def _binding(self, batch: int, time: int) -> Binding:
        size = batch, time
        if size not in self._bindings:
            if len(self._bindings) == KEPT:
                self._bindings.popitem(last=False)
            self._bindings[size] = self._session.bind(batch, time)
        self._bindings.move_to_end(size)
        return self._bindings[size]
