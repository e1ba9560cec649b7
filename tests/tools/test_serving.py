"""tools/benchmark.py --serving."""

import json

import pytest
from typer.testing import CliRunner

from tools import benchmark

pytestmark = pytest.mark.slow


def run(*arguments):
    return CliRunner().invoke(benchmark.app, [str(argument) for argument in arguments])


def test_all_servers_are_measured(tmp_path):
    path = tmp_path / "serving.json"
    options = ("--size", "1,4,2,3", "--clients", 4, "--seconds", 8, "--json", path)
    result = run("--serving", *options)
    assert result.exit_code == 0, result.output
    (case,) = json.loads(path.read_text())["cases"]
    assert case["clients"] == 4
    loads = {load.pop("server"): load for load in case["loads"]}
    others = ["unbatched", "2 workers", "REST, tritonclient", "gRPC, tritonclient", "FastAPI"]
    assert [*loads] == ["REST", *others]
    assert loads["unbatched"]["mean_batch"] == 1
    assert 1 <= loads["REST"]["mean_batch"] <= 4
    assert loads["FastAPI"].pop("mean_batch") is None
    for load in loads.values():
        rounds = [values for values in load.values() if isinstance(values, list)]
        assert [len(values) for values in rounds] == [5] * 4
        assert all(value > 0 for values in rounds for value in values)
    assert [*case["ratios"]] == others
    assert all(ratio > 0 for ratio in case["ratios"].values())
    assert [each["server"] for each in case["connections"]] == ["REST", "asyncio"]
    for each in case["connections"]:
        median, most = each["health_ms"]
        assert 0 < median <= most
        assert each["served"] > 0
        assert each["kept"] > 0
    assert "unbatched" in result.stdout


@pytest.mark.parametrize("wrong", [("--forms",), ("--clients", 0)])
def test_wrong_options(wrong):
    result = run("--serving", *wrong)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
