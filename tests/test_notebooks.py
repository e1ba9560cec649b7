"""The notebooks of examples/, executed by Jupyter's own client."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))
TIMEOUT = 600  # seconds a cell; a busy machine takes long


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_output_is_there(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # what readers keep goes with the test
    notebook = nbformat.read(path, 4)
    kept = [bool(cell.get("outputs")) for cell in notebook.cells]
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=TIMEOUT, resources=resources).execute()
    assert [bool(cell.get("outputs")) for cell in notebook.cells] == kept
    assert any(kept), "a reader sees what it gives without running it"
