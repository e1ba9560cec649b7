"""The seal of an exported file: the SHA-256 of all of it, at its end, by which damage is noticed.

A serialized message of protobuf may be continued: what follows is merged, a repeated field gets
further entries, and of another the last value counts. So the seal is one more metadata property,
`bnlstm.sha256`, of everything before it, and then the version of the format once more, which comes
first otherwise. Whatever reads ONNX reads a sealed file; a tool that writes it anew, with other
bytes, puts the fields in order, and then that property is no seal any more.
"""

import hashlib
from pathlib import Path
from typing import Any

from bnlstm_deploy.errors import RuntimeSessionError

KEY = "bnlstm.sha256"

DIGITS = 64


def _field(number: int, content: bytes) -> bytes:
    """Return a field of protobuf that holds fewer than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def _property(digest: str) -> bytes:
    """Return ModelProto's metadata_props, 14, with a key, 1, and a value, 2."""
    return _field(14, _field(1, KEY.encode()) + _field(2, digest.encode()))


HEAD = _property("0" * DIGITS)[:-DIGITS]
IR_VERSION = bytes([1 << 3])
"""Before the version of the format, ModelProto's first field, one byte."""

LENGTH = len(HEAD) + DIGITS + len(IR_VERSION) + 1


def serialize(proto: Any) -> bytes:  # noqa: ANN401 (a ModelProto: onnx need not be there)
    """Return an ONNX model as bytes, sealed anew."""
    kept = [entry for entry in proto.metadata_props if entry.key != KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    content: bytes = proto.SerializeToString()
    end = IR_VERSION + bytes([proto.ir_version])
    return content + _property(hashlib.sha256(content).hexdigest()) + end


def check_seal(path: Path) -> None:
    """Check that a file is what was sealed, if it has a seal.

    Raises:
        RuntimeSessionError: It is not, or cannot be read.
    """
    try:
        file = memoryview(path.read_bytes())
    except OSError as error:
        raise RuntimeSessionError(f"{path} cannot be read: {error.strerror}") from error
    content, seal = file[:-LENGTH], file[-LENGTH:]
    if seal[: len(HEAD)] != HEAD or seal[-2:-1] != IR_VERSION:
        return
    if seal[len(HEAD) : -2] != hashlib.sha256(content).hexdigest().encode():
        raise RuntimeSessionError(
            f"{path} is damaged: it is not what its {KEY} says was written. Copy it again, or "
            "export it anew"
        )
