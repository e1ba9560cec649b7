"""The exported files whose launches are counted."""

import itertools
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import torch

from bnlstm_deploy.choices import Folding, Form
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.normalizations import PATHS, NormPath
from tests.models import randomize

D, H = 8, 32
STREAMS = 5
"""N. Odd, so that no (N,) has the size of a shape: see stub_set_result."""

LENGTHS = (3, 6)
"""Two T, in steps of which a timestep's work is what differs.

Both are at most 32: the trees of Splits and Concats of the form unrolled are then equally deep.
They are no other size of the files, as the stubs compute nothing: memory used again for an equal
size has something else in it, and another branch of an If may run.
"""

DTYPES = ("float32", "float16", "bfloat16")
"""Of weights and products; inputs and outputs are float32 in all."""

GIVEN = ("", "lengths", "state", "lengths, state")
"""The optional inputs that are given, the lengths such that one stream is shorter."""


@dataclass(frozen=True)
class Kind:
    """A form and a folding, of a layer that it is exact for."""

    form: str
    folding: str
    normalize: tuple[NormPath, ...]
    of: str
    """The layer, or what else tells the kinds of one form and folding apart."""

    @property
    def native(self) -> bool:
        """Whether the native kernel runs; the folding is then which of its launches."""
        return self.form == "native"

    @property
    def name(self) -> str:
        """As in the table."""
        return f"{self.form}, {self.folding}" + (f": {self.of}" if self.of else "")


KINDS = (
    Kind("unrolled", "factored", PATHS, ""),
    Kind("unrolled", "materialized", PATHS, ""),
    Kind("scan", "factored", PATHS, ""),
    Kind("scan", "materialized", PATHS, ""),
    Kind("lstm", "factored", (), "the same over time"),
    Kind("lstm", "factored", ("input",), "only the input's part changes"),
    Kind("native", "step", PATHS, ""),
    Kind("native", "sequence", PATHS, ""),
)


@dataclass(frozen=True)
class File:
    """An exported file."""

    kind: Kind
    layers: int
    directions: int
    dtype: str = "float32"
    rows: int = max(LENGTHS)
    """K, of the folded weights; by default no fewer than there are timesteps."""

    def write(self, folder: Path, length: int) -> Path:
        """Export it, once; only the form unrolled depends on the length."""
        return _write(self, folder, length if self.kind.form == "unrolled" else None)


def exists(kind: Kind, dtype: str, layers: int, directions: int) -> bool:
    """Whether such a file is counted: all of float32, and fewer of the others, which take long."""
    if dtype == "float32":
        return True
    # ONNX has no ReverseSequence of bfloat16, and so there are not two directions
    more = {"float16": (2, 2), "bfloat16": (2, 1)}[dtype]
    return kind.form != "lstm" and (layers, directions) in ((1, 1), more)


FILES = tuple(
    File(kind, layers, directions, dtype)
    for kind, dtype, layers, directions in itertools.product(KINDS, DTYPES, (1, 2), (1, 2))
    if exists(kind, dtype, layers, directions)
)


@cache
def _write(file: File, folder: Path, length: int | None) -> Path:
    model = BNLSTM(
        D,
        H,
        file.layers,
        bidirectional=file.directions == 2,
        max_length=file.rows,
        normalize=file.kind.normalize,
    )
    path = folder / f"{len(list(folder.iterdir()))}.onnx"
    metadata = export(
        randomize(model),
        path,
        dtype=getattr(torch, file.dtype),
        form=cast("Form", "scan" if file.kind.native else file.kind.form),
        folding=cast("Folding", "auto" if file.kind.native else file.kind.folding),
        target="cuda" if file.kind.native else "cpu",
        length=length,
    )
    if not file.kind.native and (metadata.form, metadata.folding) != (
        file.kind.form,
        file.kind.folding,
    ):
        # layers after the first may get another form
        raise RuntimeError(f"{file} came out as {metadata.form}, {metadata.folding}")
    return path
