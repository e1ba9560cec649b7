"""convert --weights, --activations, --calibrate and --budget, and what they may not be."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from bnlstm_deploy.checkpoint import save_checkpoint
from bnlstm_deploy.metadata import Metadata
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.npz import read_npz
from bnlstm_deploy.runtime import Session
from tests.cli.command import run
from tests.models import randomize

RNN = BNLSTM(2, 8, batch_first=True, max_length=5)


class Own(nn.Module):
    """A model of one's own with two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = randomize(BNLSTM(2, 8, batch_first=True, max_length=5))

    def forward(self, left, right):
        return self.rnn(left + right)[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(randomize(BNLSTMModel(RNN, 3)), tmp_path / "ck")
    x = np.random.default_rng(0).standard_normal((40, 7, 2)).astype(np.float32)
    np.savez("x.npz", x=x, y=np.arange(40) % 3)
    np.savez("nan.npz", x=np.where(x > 2, np.nan, x))
    np.savez("wide.npz", x=np.zeros((4, 7, 3), np.float32))
    np.savez("none.npz", x=np.zeros((0, 7, 2), np.float32))
    np.savez("other.npz", left=x)
    np.savez("ragged.npz", x=x, lengths=np.arange(40) % 8)
    np.savez("long.npz", x=x, lengths=np.full(40, 8))
    np.savez("few.npz", x=x, lengths=np.full(39, 7))
    np.savez("both.npz", left=x, right=x)
    np.savez("infinite.npz", left=x, right=np.full_like(x, np.inf))
    return tmp_path


def convert(*arguments):
    return run(Path(), "convert", *arguments)


def test_all_of_them_and_what_inspect_says(folder):
    options = ("--weights", "int8", "--activations", "int8", "--calibrate", "x.npz")
    result = convert("ck", "-o", "m.onnx", *options, "--budget", 0.5)
    assert result.returncode == 0, result.stderr
    assert "weights in int8, h in int8" in result.stdout
    metadata = Session("m.onnx").metadata
    assert (metadata.weights, metadata.activations, metadata.calibrated) == ("int8", "int8", True)
    shown = run(Path(), "inspect", "m.onnx", "--json")
    assert shown.returncode == 0, shown.stderr
    said = json.loads(shown.stdout)["file"]
    assert (said["activations"], said["calibrated"]) == ("int8", True)
    data = ("--data", "x.npz", "--search-seconds", "0")
    for budget, code in (("0.5", 0), ("1e-9", 1)):
        checked = run(Path(), "verify", "ck", "m.onnx", *data, "--budget", budget)
        assert checked.returncode == code, checked.stderr
        assert "of 40 answers agree" in checked.stdout


def test_padding_is_no_data(folder):
    """What is past a stream's length changes no weight; without lengths it does."""
    held = read_npz("ragged.npz")
    x, lengths = held["x"], held["lengths"]
    padding = np.arange(x.shape[1]) >= lengths[:, None]
    np.savez("noise.npz", x=np.where(padding[..., None], 1e3, x), lengths=lengths)
    np.savez("all.npz", x=np.where(padding[..., None], 1e3, x))
    weights = {}
    for name in ("ragged", "noise", "all"):
        options = ("--weights", "int8", "--calibrate", f"{name}.npz", "--no-verify")
        assert convert("ck", "-o", f"{name}.onnx", *options).returncode == 0
        held = {e.name: e for e in onnx.load(f"{name}.onnx").graph.initializer}
        weights[name] = numpy_helper.to_array(held["rnn.weight_hh_l0"])
    assert np.array_equal(weights["ragged"], weights["noise"])
    assert not np.array_equal(weights["ragged"], weights["all"])


def test_a_budget_that_is_not_kept_leaves_no_file(folder):
    result = convert("ck", "-o", "m.onnx", "--weights", "int8", "--budget", 1e-9)
    assert result.returncode == 1
    assert "is allowed" in result.stdout
    assert not (folder / "m.onnx").exists()


def test_a_model_of_one_s_own(folder):
    torch.save(Own().state_dict(), "own.pt")
    own = ("own.pt", "--model", f"{__name__}:Own", "--inputs", "both.npz", "--weights", "int8")
    result = convert(*own, "-o", "m.onnx", "--calibrate", "both.npz")
    assert result.returncode == 0, result.stderr
    for data, message in (("other.npz", "missing"), ("infinite.npz", "right is not finite")):
        result = convert(*own, "-o", "n.onnx", "--calibrate", data)
        assert result.returncode == 2, result.stdout + result.stderr
        assert message in result.stderr
    assert not (folder / "n.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--activations", "int8"), "pass weights int8, too"),
        (("--weights", "bfloat16", "--calibrate", "x.npz"), "--calibrate is for --weights int8"),
        (("--weights", "int8", "--calibrate", "gone.npz"), "gone.npz"),
        (("--weights", "int8", "--calibrate", "nan.npz"), "pass finite floating point numbers"),
        (
            ("--weights", "int8", "--calibrate", "wide.npz"),
            "sequences of 3 features, and the model",
        ),
        (("--weights", "int8", "--calibrate", "none.npz"), "have no timestep"),
        (("--weights", "int8", "--calibrate", "long.npz"), "from 8 to 8; pass one of 0 to 7"),
        (("--weights", "int8", "--calibrate", "few.npz"), "for each of the 40 sequences"),
        (("--weights", "int8", "--calibrate", "other.npz"), "it needs one of input and x"),
        (("--weights", "int8", "--dtype", "float16"), "leave one of them out"),
        (("--weights", "int8", "--budget", "1", "--no-verify"), "pass it without --no-verify"),
    ],
)
def test_what_does_not_go_together(folder, arguments, message):
    before = sorted(folder.iterdir())
    result = convert("ck", "-o", "m.onnx", *arguments)
    assert result.returncode == 2, result.stdout + result.stderr
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert sorted(folder.iterdir()) == before


def test_older_files_say_nothing_of_it():
    properties = {
        "bnlstm.format_version": "1",
        "bnlstm.dtype": "float32",
        "bnlstm.checkpoint_sha256": "",
        "bnlstm.form": "scan",
        "bnlstm.folding": "factored",
        "bnlstm.producer": "bnlstm-deploy 0.1.0",
        "bnlstm.layers": json.dumps(
            [
                {
                    "name": "",
                    "input_size": 2,
                    "hidden_size": 3,
                    "num_layers": 1,
                    "num_directions": 1,
                    "steps": 4,
                    "normalize": [],
                    "batch_first": False,
                }
            ]
        ),
    }
    metadata = Metadata.from_properties(properties)
    assert (metadata.activations, metadata.calibrated, metadata.changes) == (None, False, "")
