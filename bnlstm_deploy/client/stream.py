"""Stream: streams whose state the client holds."""

from typing import TYPE_CHECKING, Any

from bnlstm_deploy.signature import Array, Lengths, States

if TYPE_CHECKING:
    from bnlstm_deploy.client.client import Client


class Stream:
    """N streams that are continued chunk by chunk; h, c and the step go out and back with each.

    The server keeps nothing, so any replica serves any chunk, and a chunk that fails is simply
    sent again: the answer is the same. After an error the stream is where it was before the chunk.

    Use one from one thread at a time.

    Args:
        client: The model.
        state: Where the streams are; None for the model's initial state.

    Attributes:
        state: The state after the last chunk; None before the first. A stream that is made of it
            (`client.stream(state)`) goes on from there.
    """

    def __init__(self, client: "Client", state: States | None) -> None:
        self.client = client
        self.state = state

    def __call__(self, *inputs: Array, lengths: Lengths | None = None) -> Any:  # noqa: ANN401
        """Run the next chunk.

        Args:
            inputs: The model's own inputs, in order, in its dtypes.
            lengths: (N,) int64, 0..T: the valid timesteps of each stream; T by default.

        Returns:
            The model's own output, an array or a tuple of several.

        Raises:
            BnlstmError: As `Client.run`.
        """
        output, self.state = self.client.run(*inputs, lengths=lengths, state=self.state)
        return output
