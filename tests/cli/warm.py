"""Exports once, so that every command that is forked from here has what torch does only once."""

import tempfile
from pathlib import Path

import tests.conftest  # noqa: F401 (what it caches)
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM

with tempfile.TemporaryDirectory() as folder:
    export(BNLSTM(1, 1, max_length=2).eval(), Path(folder) / "model.onnx")
