"""An experiment that is interrupted and goes on is the one that was not."""

import json

import pytest
import torch

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.normalizations import PATHS
from tools.study.models import Experiment
from tools.study.runner import append, read, remaining
from tools.study.tasks import tasks
from tools.study.training import train


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("name", ["digits", pytest.param("characters", marks=pytest.mark.slow)])
def test_an_interrupted_experiment_loses_one_epoch_and_ends_the_same(tmp_path, name):
    experiment = Experiment(name, num_layers=2, dropout=0.3)
    task = tasks(quick=True)[name]
    whole = train(experiment, task, tmp_path / "whole", lambda epoch, curves: None)

    def interrupt(epoch, curves):
        raise StoppedError

    begun = []
    with pytest.raises(StoppedError):
        train(experiment, task, tmp_path / "parts", interrupt)
    parts = train(experiment, task, tmp_path / "parts", lambda epoch, curves: begun.append(epoch))
    assert begun == [2]
    for line in (whole, parts):
        del line["curves"]["seconds"]
    assert parts == whole
    assert not (tmp_path / "parts" / "state.pt").exists()


def test_what_is_in_the_results_is_not_run_again(tmp_path):
    results = tmp_path / "results.jsonl"
    grid = [
        Experiment("digits", normalize, seed=seed) for seed in (0, 1) for normalize in ((), PATHS)
    ]
    assert list(remaining(grid, results)) == grid
    append(results, {"experiment": grid[1].settings()})
    assert list(remaining(grid, results)) == [grid[0], *grid[2:]]


def test_a_line_that_was_cut_off_is_named(tmp_path):
    results = tmp_path / "results.jsonl"
    append(results, {"a": 1})
    with results.open("a") as file:
        file.write('{"b":')
    with pytest.raises(InputError, match="line 2 is not JSON"):
        read(results)


def test_test_metrics_of_a_plain_lstm_do_not_depend_on_statistics(tmp_path):
    task = tasks(quick=True)["adding"]
    line = train(Experiment("adding", ()), task, tmp_path, lambda epoch, curves: None)
    assert len(set(line["test"].values())) == 1
    assert json.loads(json.dumps(line)) == {
        **line,
        "experiment": {**line["experiment"], "normalize": []},
    }
    assert torch.load(tmp_path / "model.pt", weights_only=True)
