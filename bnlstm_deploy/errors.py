"""Every error that this package raises on purpose, as one tree.

    BnlstmError
    ├── CheckpointError      a checkpoint that cannot be read or contradicts its configuration
    │   └── LayoutError      a layout that is not valid, does not match or cannot be converted
    ├── FoldError            statistics or weights that cannot be folded
    ├── ExportError          a model that cannot become an ONNX graph, or a file that is in the way
    ├── RuntimeSessionError  a graph or an execution provider that cannot be used
    ├── InputError           an argument with the wrong type, rank, size or range
    ├── VerificationError    an equivalence check that could not be carried out
    ├── ServingError         a request that a server cannot answer
    │   ├── OverloadedError      its queue is full or it is shutting down: try again
    │   ├── DeadlineError        the answer was not there in time: try again
    │   └── SequenceError        a sequence that the server does not hold, or holds busy
    └── MissingExtraError    an optional dependency that is not installed

A message states what was wrong, the value seen, and the remedy. `InputError` is also a
`ValueError` and `MissingExtraError` an `ImportError`, so that callers who expect the built-in
exceptions catch them.
"""

import re

__all__ = [
    "BnlstmError",
    "CheckpointError",
    "DeadlineError",
    "ExportError",
    "FoldError",
    "InputError",
    "LayoutError",
    "MissingExtraError",
    "OverloadedError",
    "RuntimeSessionError",
    "SequenceError",
    "ServingError",
    "VerificationError",
]


LONG_WORD, LONG_TEXT = 200, 5000
"""Characters of a word, and of a message, that are passed on: both may come from a file."""


class BnlstmError(Exception):
    """The base of every error that bnlstm_deploy raises on purpose."""

    def __str__(self) -> str:
        """Return the message, without the rest of values that are huge."""
        text = re.sub(rf"(\S{{{LONG_WORD}}})\S+", r"\1...", super().__str__())
        return text if len(text) <= LONG_TEXT else f"{text[:LONG_TEXT]}..."


class CheckpointError(BnlstmError):
    """A checkpoint cannot be read, or its tensors contradict its configuration."""


class LayoutError(CheckpointError):
    """A layout is not valid, does not match a checkpoint, or describes what cannot be converted."""


class FoldError(BnlstmError):
    """Statistics or weights cannot be folded: wrong shape, negative, non-finite, a missing step."""


class ExportError(BnlstmError):
    """A model cannot become an ONNX graph, or the file to write is in the way."""


class RuntimeSessionError(BnlstmError):
    """A graph, or a requested execution provider, cannot be used by ONNX Runtime."""


class InputError(BnlstmError, ValueError):
    """An argument has the wrong type, rank, size or range."""


class VerificationError(BnlstmError):
    """An equivalence check could not be carried out. A check that *fails* is a result instead."""


class ServingError(BnlstmError):
    """A server cannot answer a request."""


class OverloadedError(ServingError):
    """The server's queue is full, or the server is shutting down; the request may be repeated."""


class DeadlineError(ServingError):
    """The answer was not there in time."""


class SequenceError(ServingError):
    """The server does not hold this sequence: unknown, expired, or busy with another chunk."""


class MissingExtraError(BnlstmError, ImportError):
    """An optional dependency is not installed."""
