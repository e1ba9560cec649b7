"""bench --html: latency beside that of the function body and the LSTM operator."""

import numpy as np
import pytest
import torch

from bnlstm_deploy.cli.peers import lstm_operator
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.pages.latency import draw_latency
from bnlstm_deploy.runtime import Session
from tests.cli.command import run
from tests.models import randomize


def rows(*sizes):
    return [{"batch_size": n, "length": t, "median_ms": float(n * t)} for n, t in sizes]


def test_there_are_plots_over_both_sizes():
    sizes = [(n, t) for n in (1, 4) for t in (2, 8, 16)]
    figures = list(draw_latency({"one": rows(*sizes), "another": rows(*sizes)}))
    titles = [figure.title for figure in figures]
    assert titles == ["2 timesteps", "8 timesteps", "16 timesteps", "1 streams", "4 streams"]
    assert all("another" in figure.svg for figure in figures)


def test_one_size_has_no_curve():
    assert list(draw_latency({"one": rows((1, 2))})) == []


@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, True)])
def test_the_operator_is_of_the_files_sizes(layers, bidirectional, tmp_path):
    model = randomize(BNLSTM(3, 4, layers, bidirectional=bidirectional, max_length=5))
    metadata = export(model, tmp_path / "m.onnx")
    with lstm_operator(metadata) as path:
        assert path is not None
        session = Session(path, native=False)
        x = np.zeros((6, 2, 3), np.float32)
        assert session(x)[0].shape == (6, 2, 8 if bidirectional else 4)


def test_other_dtypes_have_no_such_peer(tmp_path):
    metadata = export(BNLSTM(3, 4, max_length=5), tmp_path / "m.onnx", dtype=torch.float64)
    with lstm_operator(metadata) as path:
        assert path is None


def test_the_page_is_written(tmp_path):
    export(randomize(BNLSTM(3, 4, max_length=5)), tmp_path / "m.onnx")
    page = tmp_path / "page.html"
    sizes = ("-b", 1, "-b", 2, "-t", 5)
    result = run(tmp_path, "bench", tmp_path / "m.onnx", *sizes, "--seconds", 0, "--html", page)
    assert result.returncode == 0, result.stderr
    text = page.read_text()
    assert text.count("<figure") == 1
    for name in ("function body", "LSTM operator"):
        assert f"2 streams, 5 timesteps, {name}" in text
