import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from bnlstm_deploy.checkpoint import load_checkpoint
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from tools import digits
from tools.train import app, count_correct, minibatches

pytestmark = pytest.mark.slow

COMMITTED = Path(__file__).parents[2] / "models" / "permuted-digits"
FILES = {"README.md", "config.json", "metrics.json", "model.safetensors", "training.png"}


def train(folder: Path, *options: str) -> Result:
    arguments = ["--output", str(folder), "--epochs", "1", "--hidden-size", "8", *options]
    return CliRunner().invoke(app, arguments)


def recorded(folder: Path) -> tuple[dict[str, Any], int]:
    """Return the figures of each model, and the number of test sequences."""
    metrics = json.loads((folder / "metrics.json").read_text())
    return metrics["models"], metrics["sequences"]["test"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")  # an empty folder is not in the way
    result = train(folder)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def data():
    return digits.load()


def test_checkpoint_gives_the_recorded_accuracy(trained, data):
    models, tested = recorded(trained)
    assert tested == len(data.test.y)
    model = load_checkpoint(trained)
    assert count_correct(model, data.test) == models["BN-LSTM"]["test_correct"]
    assert models["BN-LSTM"]["parameters"] == sum(p.numel() for p in model.parameters())


def test_folder_is_whole_and_names_no_place(trained):
    assert {path.name for path in trained.iterdir()} == FILES
    for path in trained.iterdir():
        content = path.read_bytes()
        assert str(trained).encode() not in content
        assert str(Path.home()).encode() + b"/" not in content


def test_card_has_figures_and_command(trained):
    models, tested = recorded(trained)
    card = (trained / "README.md").read_text()
    for result in models.values():
        correct = result["test_correct"]
        assert f"| {correct / tested:.1%} | {correct} of {tested} |" in card
    assert "--hidden-size 8 --epochs 1 --batch-size 100 --learning-rate 0.003 --seed 0" in card


def test_same_seed_same_weights(trained, tmp_path):
    assert train(tmp_path).exit_code == 0
    weights = (trained / "model.safetensors").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == weights


def test_overwrites_only_with_force(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    result = train(folder, "--seed", "1")
    assert result.exit_code == 2
    assert result.stderr == f"error: {folder} holds files; pass another --output, or --force\n"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    assert train(folder, "--seed", "1", "--force").exit_code == 0
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() == FILES
    assert after["model.safetensors"] != before["model.safetensors"]


def test_minibatches_are_full_and_repeat_nothing(data):
    torch.manual_seed(0)
    batches = list(minibatches(data.validation, 100))
    assert [(x.shape, y.shape) for x, y in batches] == [((100, 64, 1), (100,))] * 2
    assert len({row.numpy().tobytes() for x, _ in batches for row in x}) == 200


def test_count_correct_uses_evaluation_mode(data):
    model = BNLSTMModel(BNLSTM(1, 2, batch_first=True, max_length=64), 10).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_correct(model, data.validation)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_committed_model_reaches_its_recorded_accuracy(data):
    models, _ = recorded(COMMITTED)
    correct = count_correct(load_checkpoint(COMMITTED), data.test)
    # on another CPU the last bits of a sum may turn one answer that is nearly a tie
    assert correct == pytest.approx(models["BN-LSTM"]["test_correct"], abs=1)
    assert correct > models["LSTM"]["test_correct"]


def test_committed_folder_is_whole_and_small():
    assert {path.name for path in COMMITTED.iterdir()} == FILES
    assert sum(path.stat().st_size for path in COMMITTED.iterdir()) < 2**20
    assert (COMMITTED / "training.png").stat().st_size < 100_000
