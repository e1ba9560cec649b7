"""What a server takes on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of one model of a server; seconds are floats."""

    max_batch: int = 64
    """Streams in one run. A request that has more by itself runs alone."""
    max_wait: float = 0.002
    """Seconds that the oldest request waits for others, while there is nothing else to run."""
    max_queue: int = 1024
    """Requests that wait; one more is refused at once."""
    max_time: int = 16384
    """T of one request."""
    max_run: int = 256 * 2**20
    """Bytes of one run: inputs, outputs, and what the graph holds between them."""
    timeout: float = 30.0
    """Seconds that a request may wait for its run."""
    max_sequences: int = 10_000
    """Streams of sequences whose state the server holds; one more is refused."""
    sequence_idle: float = 60.0
    """Seconds without a chunk, after which the state of a sequence is dropped."""
    max_body: int = 32 * 2**20
    """Bytes of one request, uncompressed."""
    max_json: int = 16 * 2**20
    """Bytes of JSON in one request, or in one answer; tensors in binary are not counted."""
    max_pending: int = 256 * 2**20
    """Bytes of all requests that are being read or wait; one more is refused at once."""
    max_connections: int = 4096
    """HTTP connections that are open; one more is refused at once."""
