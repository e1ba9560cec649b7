"""A served model in the place of a graph: the check through the front door."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import unquote

from bnlstm_deploy.access import read_token
from bnlstm_deploy.client import Client
from bnlstm_deploy.errors import InputError, ServingError
from bnlstm_deploy.signature import Array, Value
from bnlstm_deploy.verification.judging.structure import Finding
from bnlstm_deploy.verification.measuring.checker import converted
from bnlstm_deploy.verification.measuring.process import Graph
from bnlstm_deploy.verification.measuring.trial import Run, Trial

ADDRESS = re.compile("(https?://.+)/v2/models/([^/]+)(?:/versions/([^/]+))?/?")

TIMEOUT = 300.0
"""Seconds for a case: the largest take a while, and the server has others to serve."""

RETRIES = 6
"""Attempts after the first: some seconds, and then it is known that the server is not there."""

FACTS = "page/models"
"""Where a server of this package tells the metadata of its files."""


class Endpoint:
    """A served model that is run like the graph in the local file; a context manager.

    Args:
        url: `http://HOST:PORT/v2/models/NAME`, and `/versions/VERSION` if it is to be that one. If
            the server wants a bearer token, it is BNLSTM_DEPLOY_TOKEN of the environment.
        graph: The file that should be served, for its names, shapes and metadata.

    Attributes:
        url: The address.
        findings: How what is served compares with the file, as far as the server tells.
        alike: Whether its inputs and outputs are those of the file, so that it can be run.

    Raises:
        InputError: `url` is not such an address.
        ServingError: The server cannot be reached, or has no such model.
    """

    def __init__(self, url: str, graph: Graph) -> None:
        match = ADDRESS.fullmatch(url)
        if match is None:
            raise InputError(
                f"the endpoint is {url!r}; pass one such as http://127.0.0.1:8080/v2/models/NAME"
            )
        self.url = url
        server, name, version = (part and unquote(part) for part in match.groups())
        self.client = Client(
            server, name, version=version, token=read_token(), timeout=TIMEOUT, retries=RETRIES
        )
        self.metadata, self.signature = graph.metadata, graph.signature
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.state_inputs, self.state_outputs = graph.state_inputs, graph.state_outputs
        try:
            values = self._values()
            self.findings = (values, self._file(version))
        except BaseException:
            self.client.close()
            raise
        self.alike = values.ok

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the served model: arrays by input name to arrays by output name.

        Raises:
            InputError: The server refuses the arrays, by a limit.
            ServingError: It does not answer.
        """
        try:
            return self.client.infer(feeds)
        except InputError as error:
            raise InputError(
                f"the server refuses a case of the check: {error}. For the check, serve the model "
                "with larger limits max_time and max_body"
            ) from error

    def run_unchecked(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the served model: a server checks everything."""
        return self.run(feeds)

    def in_sequence(self, trial: Trial) -> Trial:
        """Return a trial in chunks such that the server holds its state."""
        return _SequenceTrial(**vars(trial), endpoint=self)

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()

    def _values(self) -> Finding:
        """Compare the inputs and outputs that the protocol tells with those of the file."""
        metadata = self.client.metadata
        groups = {
            "inputs": (*self.inputs, *self.state_inputs),
            "outputs": (*self.outputs, *self.state_outputs),
        }
        problems = [
            difference
            for kind, values in groups.items()
            for difference in _differences(metadata[kind], values)
        ]
        detail = "; ".join(problems) or f"those of {self.client.model} are the file's"
        return Finding("served inputs and outputs", not problems, detail)

    def _file(self, version: str | None) -> Finding:
        """Compare the metadata of the served file, if the server tells them, with the file's."""
        name = "served file"
        try:
            entries = self.client.get(FACTS)["models"]
            served = {
                e["version"]: e["metadata"] for e in entries if e["name"] == self.client.model
            }
            facts = served[version or max(served, key=int)]
            ours = json.loads(json.dumps(asdict(self.metadata)))
            other = sorted(k for k in ours if k != "verified" and facts.get(k) != ours[k])
        except (ServingError, LookupError, TypeError, ValueError):
            return Finding(name, True, "not compared: the server does not tell its checkpoint")
        detail = f"{self.metadata.checkpoint_sha256[:16]}..., the checkpoint of the file here"
        if other:
            detail = f"another than the file here: its {', '.join(other)} differ"
        return Finding(name, not other, detail)


@dataclass(frozen=True, eq=False, kw_only=True)
class _SequenceTrial(Trial):
    """A trial in chunks that are sent as one of the server's sequences."""

    endpoint: Endpoint

    def run_chunks(self, run: Run) -> dict[str, Array]:
        """Run the chunks, without states, and join the outputs."""
        del run  # it would run each chunk on its own
        chunks = [converted(self.endpoint, feeds) for feeds in self.chunks()]
        with self.endpoint.client.sequence() as sequence:
            pieces = [sequence.infer(feeds, last=feeds is chunks[-1]) for feeds in chunks]
        return self.joined(pieces)


def _differences(told: Sequence[Mapping[str, Any]], values: Sequence[Value]) -> list[str]:
    """Return how the tensors of the protocol's metadata differ from those of a file."""
    served, ours = (
        {t["name"]: f"{t['datatype']} {[*t['shape']]}" for t in tensors}
        for tensors in (told, [value.described() for value in values])
    )
    return [
        f"{name} is served as {served.get(name, 'nothing')}, the file has "
        f"{ours.get(name, 'nothing')}"
        for name in sorted(served.keys() | ours.keys())
        if served.get(name) != ours.get(name)
    ]
