"""tools/benchmark.py --serving."""

import json

import pytest
from typer.testing import CliRunner

from tools import benchmark

pytestmark = pytest.mark.slow


def run(*arguments):
    return CliRunner().invoke(benchmark.app, [str(argument) for argument in arguments])


def test_both_servers_are_measured(tmp_path):
    path = tmp_path / "serving.json"
    options = ("--size", "1,4,2,3", "--clients", 4, "--seconds", 2, "--json", path)
    result = run("--serving", *options)
    assert result.exit_code == 0, result.output
    (case,) = json.loads(path.read_text())["cases"]
    assert case["clients"] == 4
    batched, unbatched = case["loads"]
    assert (batched.pop("server"), unbatched.pop("server")) == ("batched", "unbatched")
    assert unbatched["mean_batch"] == 1
    assert 1 <= batched["mean_batch"] <= 4
    for load in (batched, unbatched):
        rounds = [len(values) for values in load.values() if isinstance(values, list)]
        assert rounds == [5, 5, 5]
        assert all(value > 0 for values in load.values() for value in [*_flat(values)])
    assert case["ratio"] > 0
    assert "unbatched" in result.stdout


@pytest.mark.parametrize("wrong", [("--forms",), ("--clients", 0)])
def test_wrong_options(wrong):
    result = run("--serving", *wrong)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")


def _flat(value):
    return value if isinstance(value, list) else [value]
