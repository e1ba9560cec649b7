"""Client: one model of a server, called like a Session."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any
from urllib.parse import quote

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from bnlstm_deploy.client.answers import Answer, check
from bnlstm_deploy.client.protocol import read_signature, with_inputs
from bnlstm_deploy.client.retry import REPEATABLE, Failures, persist
from bnlstm_deploy.client.sequence import Chunk, ServerSequence
from bnlstm_deploy.client.stream import Stream
from bnlstm_deploy.client.transport import JSON_LENGTH, Transport
from bnlstm_deploy.errors import InputError, ServingError
from bnlstm_deploy.signature import Array, Lengths, Signature, States

SESSION = "x-session-id"
"""The header by which a cluster sends all chunks of a sequence to the replica that holds it."""


class Client:
    """One model of a server of the Open Inference Protocol.

        with Client("http://127.0.0.1:8080", "digits") as client:
            output, state = client.run(x)        # a whole sequence

            stream = client.stream()             # the state is here: any replica serves any chunk
            for chunk in chunks:
                output = stream(chunk)

            with client.sequence() as sequence:  # the state is there: less to send
                for chunk in chunks:
                    output = sequence(chunk)

    Nothing is sent before the first call. A call whose connection fails, or that a busy server
    refuses, is tried again with growing random waits until `timeout`; see `ServerSequence` for what
    is not repeated. Errors in the request are not.

    A client may be used by several threads at a time, a stream or sequence of it by one.

    Args:
        url: The server, `http://host:port` or `https://`, with a path if it is below one.
        model: The model's name.
        version: Of the model; None for the one that the server takes, its latest.
        token: The bearer token, if the server wants one.
        timeout: Seconds for a call with all its attempts.
        retries: How often to try again at most; None for as long as there is time.

    Raises:
        InputError: `url` is not an address.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        version: str | None = None,
        token: str | None = None,
        timeout: float = 30.0,
        retries: int | None = None,
    ) -> None:
        self.url = url
        self.model = model
        self.timeout = timeout
        self.retries = retries
        self._transport = Transport(url, token)
        self._path = f"v2/models/{quote(model, safe='')}"
        if version is not None:
            self._path += f"/versions/{quote(version, safe='')}"

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The protocol's metadata of the model: its versions, inputs and outputs.

        Raises:
            ServingError: The server cannot be reached, or has no such model.
        """
        metadata: dict[str, Any] = self.get(self._path)
        return metadata

    @cached_property
    def signature(self) -> Signature:
        """The names of the model's inputs and outputs.

        Raises:
            ServingError: The server cannot be reached, or has no such model.
        """
        return read_signature(self.metadata)

    def run(
        self, *inputs: Array, lengths: Lengths | None = None, state: States | None = None
    ) -> tuple[Any, Any]:
        """Run the model over N streams; what a Session gives when it is called.

        Args:
            inputs: The model's own inputs, in order, in its dtypes.
            lengths: (N,) int64, 0..T: the valid timesteps of each stream; T by default.
            state: The state that the call before returned; the model's initial one by default.

        Returns:
            The model's own output, an array or a tuple of several, and the state after the inputs.
            For a model with several BNLSTM, `state` and `lengths` are by their module paths, both
            as arguments and as results.

        Raises:
            InputError: The inputs do not fit the model, or exceed a limit of the server.
            OverloadedError: The server was busy until the last attempt.
            DeadlineError: There was no answer within `timeout`.
            ServingError: The server cannot be reached, or cannot answer.
        """
        signature = with_inputs(self.signature, len(inputs))
        results = self.infer(signature.feeds(*inputs, state=state, lengths=lengths))
        return signature.output(results), signature.state(results)

    def stream(self, state: States | None = None) -> Stream:
        """Return N streams whose state is held here.

        Args:
            state: Where they are; the model's initial state by default.
        """
        return Stream(self, state)

    def sequence(self) -> ServerSequence:
        """Return N streams whose state the server holds."""
        return ServerSequence(self)

    def infer(
        self,
        feeds: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        chunk: Chunk | None = None,
        again: Failures = REPEATABLE,
    ) -> dict[str, Array]:
        """Run the model on arrays by name.

        Args:
            feeds: Arrays by input name.
            outputs: Names of the outputs wanted; None for all.
            chunk: Which chunk of which of the server's sequences it is; None for none.
            again: The failures after which to try again.

        Returns:
            Arrays by output name.

        Raises:
            BnlstmError: As `run`.
        """
        signature = self.signature
        if outputs is None:
            outputs = [value.name for value in (*signature.outputs, *signature.state_outputs)]
        body, length = InferenceServerClient.generate_request_body(
            [_input(name, array) for name, array in feeds.items()],
            outputs=[InferRequestedOutput(name, binary_data=True) for name in outputs],
            **({} if chunk is None else chunk._asdict()),
        )
        headers = {} if length is None else {JSON_LENGTH: str(length)}
        if chunk is not None:
            headers[SESSION] = str(chunk.sequence_id)
        path = f"{self._path}/infer"
        send = partial(self._transport.send, "POST", path, body=body, headers=headers)
        return _results(self._persist(send, again), outputs)

    def get(self, path: str) -> Any:  # noqa: ANN401
        """Return the JSON at a path below the server's address.

        Raises:
            ServingError: The server cannot be reached, or has no JSON there.
        """
        answer = self._persist(partial(self._transport.send, "GET", path), REPEATABLE)
        try:
            return json.loads(answer.body)
        except ValueError as error:
            raise ServingError(f"{self.url}/{path} is not JSON; look at the address") from error

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _persist(self, send: "partial[Answer]", again: Failures) -> Answer:
        def attempt(left: float) -> Answer:
            answer = send(timeout=left)
            check(answer)
            return answer

        return persist(attempt, again=again, timeout=self.timeout, retries=self.retries)


def _input(name: str, array: Array) -> InferInput:
    if not isinstance(array, np.ndarray):
        raise InputError(f"{name!r} is a {type(array).__name__}; pass a numpy array")
    datatype = np_to_triton_dtype(array.dtype)
    if datatype is None:
        raise InputError(f"{name!r} is {array.dtype}, which the protocol does not have")
    given = InferInput(name, list(array.shape), datatype)
    return given.set_data_from_numpy(array)


def _results(answer: Answer, names: Sequence[str]) -> dict[str, Array]:
    try:
        parsed = InferenceServerClient.parse_response_body(
            answer.body, header_length=answer.json_length
        )
        arrays = {name: parsed.as_numpy(name) for name in names}
    except (ValueError, LookupError, TypeError, InferenceServerException) as error:
        raise ServingError(f"the answer is not the protocol's: {error!r}") from error
    missing = [name for name, array in arrays.items() if array is None]
    if missing:
        raise ServingError(f"the answer lacks the outputs {missing}")
    return {name: array.copy() for name, array in arrays.items()}  # else they are read-only
