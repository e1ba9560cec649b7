"""python -m tools.study: quick runs of everything, killed and begun again."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from tools.study.__main__ import NAMES, app
from tools.study.grid import experiments
from tools.study.tasks import tasks


def arguments(task, folder):
    folders = ("--output", str(folder / "results"), "--work", str(folder / "work"))
    # Another process would import torch, too, and wait for this one: there are other tests.
    return [task, "--quick", *folders, "--processes", "1"]


def test_an_unknown_task_is_one_message():
    result = CliRunner().invoke(app, ["digit"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: task is 'digit'; pass one of digits,")


@pytest.mark.slow
@pytest.mark.parametrize("task", NAMES)
def test_every_task_runs_and_draws(task, tmp_path):
    done = CliRunner().invoke(app, arguments(task, tmp_path))
    assert done.exit_code == 0, done.output[-2000:]
    results = tmp_path / "results"
    drawn = {path.name for path in results.glob("*.svg")}
    assert drawn
    assert all(f"results/{name}" in done.stdout for name in drawn)
    if task in tasks():
        lines = (results / f"{task}.jsonl").read_text().splitlines()
        assert len(lines) == len(experiments(task, quick=True))
        scalars = list((tmp_path / "work").rglob("events.out.tfevents.*"))
        assert len(scalars) == len(lines)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_does_nothing_twice(tmp_path):
    task = "sequential-digits"
    command = [sys.executable, "-m", "tools.study", *arguments(task, tmp_path)]
    results = tmp_path / "results" / f"{task}.jsonl"
    # In a group of its own, for none of its processes to be left behind.
    begun = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not results.exists():
        assert begun.poll() is None
        time.sleep(0.01)
    os.killpg(begun.pid, signal.SIGKILL)
    begun.wait()
    before = results.read_text()
    done = CliRunner().invoke(app, arguments(task, tmp_path))
    assert done.exit_code == 0, done.output[-2000:]
    after = results.read_text()
    assert after.startswith(before)
    names = [json.dumps(json.loads(line)["experiment"]) for line in after.splitlines()]
    assert len(names) == len(set(names)) == len(experiments(task, quick=True))
