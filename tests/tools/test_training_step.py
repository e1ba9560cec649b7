"""The peers of a training step compute the same where they should."""

import torch
from typer import Typer
from typer.testing import CliRunner

from tools.training_step import main, peers


def test_the_graph_of_autograd_is_the_operators():
    torch.manual_seed(0)
    runs = peers(5, 2, 3)
    x = torch.randn(5, 4, 2)
    torch.testing.assert_close(runs["one operator"](x), runs["autograd's graph"](x))


def test_it_prints_a_line_for_each_peer():
    app = Typer()
    app.command()(main)
    result = CliRunner().invoke(app, ["-n", "2", "-t", "4", "-h", "3", "--rounds", "1"])
    assert result.exit_code == 0
    for name in peers(4, 1, 3):
        assert name in result.stdout
