"""inspect --html: the statistics of a checkpoint, and where they look wrong."""

import re

import numpy as np
import pytest
import torch

from bnlstm_deploy.checkpoint import save_checkpoint
from bnlstm_deploy.exporting import export
from bnlstm_deploy.folding.health import marks
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.pages.heat_maps import draw_statistics
from tests.cli.command import run
from tests.models import randomize


@pytest.fixture
def model():
    return randomize(BNLSTM(3, 4, num_layers=2, bidirectional=True, max_length=7))


def test_there_is_a_figure_for_each_normalization(model):
    figures = list(draw_statistics(model))
    titles = [figure.title for figure in figures]
    assert len(titles) == len(set(titles)) == 3 * 4
    assert titles[0] == "input_norm_l0"
    for figure in figures:
        assert figure.svg.startswith("<svg")
        assert "never visited" in figure.label
        assert not re.search(r"#01010", figure.svg), "colours are the page's"


def test_what_looks_wrong_is_marked(model):
    norm = model.norms("_l0").hidden
    assert norm is not None
    with torch.no_grad():
        norm.num_batches_tracked.fill_(1)
        norm.running_var[2, 5] = 0
        norm.num_batches_tracked[6] = 0
    found = marks(norm)
    assert np.argwhere(found.decayed).tolist() == [[2, 5]]
    assert found.unseen.tolist() == [False] * 6 + [True]
    cell = model.norms("_l0").cell
    cell.num_batches_tracked.fill_(1)
    figures = {figure.title: figure for figure in draw_statistics(model)}
    assert "1 of these were never visited, 1 look wrong" in figures["hidden_norm_l0"].label
    assert "Red:" in figures["hidden_norm_l0"].hint
    assert "Grey" in figures["hidden_norm_l0"].hint
    assert figures["cell_norm_l0"].hint == ""


@pytest.mark.parametrize("steps", [1, 700])
def test_one_timestep_and_many(steps):
    assert len(list(draw_statistics(randomize(BNLSTM(1, 2, max_length=steps))))) == 3


def test_the_page_is_written(tmp_path):
    save_checkpoint(randomize(BNLSTM(3, 4, max_length=7)), tmp_path / "m")
    page = tmp_path / "page.html"
    result = run(tmp_path, "inspect", tmp_path / "m", "--html", page)
    assert result.returncode == 0, result.stderr
    text = page.read_text()
    assert text.count("<figure") == 3
    assert "hidden size" in text
    assert not re.search(r'(src|href)="(?!data:|#)', text), "nothing from outside"


def test_an_exported_file_has_no_statistics(model, tmp_path):
    export(model, tmp_path / "m.onnx")
    result = run(tmp_path, "inspect", tmp_path / "m.onnx", "--html", tmp_path / "page.html")
    assert result.returncode == 2
    assert "pass the checkpoint" in result.stderr
    assert not (tmp_path / "page.html").exists()
