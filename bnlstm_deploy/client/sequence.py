"""ServerSequence: streams whose state the server holds."""

import contextlib
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bnlstm_deploy.client.protocol import with_inputs
from bnlstm_deploy.client.retry import REFUSED
from bnlstm_deploy.errors import BnlstmError, InputError, SequenceError, ServingError
from bnlstm_deploy.signature import Array, Lengths

if TYPE_CHECKING:
    from bnlstm_deploy.client.client import Client


INTACT: tuple[type[BnlstmError], ...] = (InputError, *REFUSED)
"""The failures of a chunk that the server has not run."""


class Chunk(NamedTuple):
    """Which chunk of which sequence a request is; the names are the protocol's."""

    sequence_id: int
    sequence_start: bool
    sequence_end: bool


class ServerSequence:
    """N streams that are continued chunk by chunk; the server holds their state under a random id.

    A chunk must not reach the server twice, since its state would advance twice. So it is sent
    again only if the server refused it, or could not be reached at all. If its answer is lost, or
    the server does not hold the sequence any more, a `SequenceError` says so and the sequence is
    over: start anew with the first chunk. A `Stream` has no such end.

    Use one from one thread at a time, and in a `with`, at whose end the server drops the state. It
    also drops it after some time without a chunk.

    Args:
        client: The model.

    Attributes:
        id: The sequence's id, 63 random bits.
    """

    def __init__(self, client: "Client") -> None:
        self.client = client
        self.id = 1 + secrets.randbelow(2**63 - 1)  # 0 is none
        self._last: Mapping[str, Array] | None = None
        self._over = ""

    def __call__(
        self,
        *inputs: Array,
        lengths: Lengths | None = None,
        last: bool = False,
    ) -> Any:  # noqa: ANN401
        """Run the next chunk.

        Args:
            inputs: The model's own inputs, in order, in its dtypes.
            lengths: (N,) int64, 0..T: the valid timesteps of each stream; T by default.
            last: Whether it is the last chunk, after which the server drops the state.

        Returns:
            The model's own output, an array or a tuple of several.

        Raises:
            SequenceError: The sequence is over.
            InputError: The inputs do not fit; the sequence is where it was before.
            OverloadedError: The server refused the chunk; the sequence is where it was before.
            ServingError: The server could not be reached; the sequence is where it was before.
        """
        signature = with_inputs(self.client.signature, len(inputs))
        feeds = signature.feeds(*inputs, lengths=lengths)
        names = [value.name for value in signature.outputs]
        return signature.output(self.infer(feeds, outputs=names, last=last))

    def infer(
        self,
        feeds: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        last: bool = False,
    ) -> dict[str, Array]:
        """Run the next chunk on arrays by name.

        Args:
            feeds: Arrays by input name.
            outputs: Names of the outputs wanted; None for all.
            last: Whether it is the last chunk.

        Returns:
            Arrays by output name.

        Raises:
            BnlstmError: As a call.
        """
        if self._over:
            raise SequenceError(f"sequence {self.id} is over: {self._over}; start anew")
        chunk = Chunk(self.id, self._last is None, last)
        self._over = "a chunk of it was interrupted"
        try:
            results = self.client.infer(feeds, outputs=outputs, chunk=chunk, again=REFUSED)
        except INTACT:
            self._over = ""
            raise
        except ServingError as error:
            self._over = str(error)
            raise SequenceError(
                f"sequence {self.id} is over, for the server may have lost it or be a chunk ahead: "
                f"{error}. Start anew, or use a stream, which holds its state itself"
            ) from error
        self._over = "its last chunk was sent" if last else ""
        self._last = feeds
        return results

    def close(self) -> None:
        """Have the server drop the state, unless the last chunk already did.

        In the protocol it is a chunk that ends a sequence, so the one before is sent once more and
        its answer is not used. If that fails, the server drops the state some time later.
        """
        if self._over or self._last is None:
            return
        self._over = "it was closed"
        outputs = [value.name for value in self.client.signature.outputs[:1]]
        chunk = Chunk(self.id, False, True)
        with contextlib.suppress(BnlstmError):
            self.client.infer(self._last, outputs=outputs, chunk=chunk, again=())

    def __enter__(self) -> "ServerSequence":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
