"""The hub's mixin, on folders and on a cache of the hub's shape: nothing is fetched."""

import shutil
from functools import partial

import numpy as np
import pytest
import torch

import bnlstm_deploy
from bnlstm_deploy import Session, hub, nn
from bnlstm_deploy.cli.serve import _found
from bnlstm_deploy.download import download, local
from bnlstm_deploy.errors import InputError, MissingExtraError
from tests.cli.command import run
from tests.models import randomize

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    rnn = randomize(nn.BNLSTM(2, 4, max_length=3, batch_first=True))
    model = hub.BNLSTMModel(rnn, 3)
    folder = tmp_path_factory.mktemp("hub") / "model"
    (folder / "README.md").parent.mkdir()
    (folder / "README.md").write_text("of another model")
    metrics = {"test accuracy": 0.875}
    model.save_pretrained(folder, model_card_kwargs={"metrics": metrics})
    return folder


@pytest.fixture
def cache(folder, tmp_path):
    """The hub's cache with one repository in it, as huggingface_hub lays it out."""
    repository = tmp_path / "models--someone--digits"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return tmp_path


def test_a_saved_folder_loads_and_its_file_computes_the_same(folder):
    model = hub.BNLSTMModel.from_pretrained(folder).eval()
    assert isinstance(model, nn.BNLSTMModel)
    x = torch.randn(2, 5, 2)
    with torch.no_grad():
        expected, _ = model(x)
    found, _ = Session(folder / "model.onnx")(x.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    again, _ = bnlstm_deploy.load(folder)(x)
    torch.testing.assert_close(again, expected)


def test_layers_without_a_head(tmp_path):
    model = randomize(hub.BNLSTM(2, 4, max_length=3))
    model.save_pretrained(tmp_path / "layers")
    found = hub.BNLSTM.from_pretrained(tmp_path / "layers")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=0, atol=0)


def test_the_card_has_what_was_measured(folder):
    card = (folder / "README.md").read_text()
    assert "another model" not in card
    assert "| test accuracy | 0.875 |" in card
    assert "us, of one stream over 3, on one thread" in card
    model = bnlstm_deploy.load(folder)
    assert f"| {sum(p.numel() for p in model.parameters()):,} |" in card
    assert "PASSED" in card or "passed" in card
    assert f"{(folder / 'model.onnx').stat().st_size / 1e6:.2f} MB" in card


def test_an_id_is_found_in_the_cache_without_a_network(cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = hub.BNLSTMModel.from_pretrained(
        "someone/digits", cache_dir=cache, local_files_only=True
    )
    assert model.head.out_features == 3


def test_an_id_that_is_not_there_is_one_error(cache):
    with pytest.raises(InputError, match="someone/else is no folder"):
        hub.BNLSTMModel.from_pretrained("someone/else", cache_dir=cache, local_files_only=True)


def test_the_wrong_class_is_named(folder):
    with pytest.raises(InputError, match=r"hub\.BNLSTMModel\.from_pretrained"):
        hub.BNLSTM.from_pretrained(folder)


def test_what_the_config_says_cannot_be_changed(folder):
    with pytest.raises(InputError, match="hidden_size"):
        hub.BNLSTMModel.from_pretrained(folder, hidden_size=5)


@pytest.fixture
def offline(cache, monkeypatch):
    """The cache as that of this machine, which has no network."""
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return cache


def test_convert_takes_a_hub_id(offline, folder, tmp_path):
    done = run(tmp_path, "convert", "hf:someone/digits", "-o", "m.onnx", "--no-verify")
    assert done.returncode == 0, done.stderr
    x = np.ones((1, 4, 2), np.float32)
    found, expected = (Session(p)(x)[0] for p in (tmp_path / "m.onnx", folder / "model.onnx"))
    np.testing.assert_array_equal(found, expected)
    done = run(tmp_path, "convert", "hf:someone/else", "-o", "other.onnx", "--no-verify")
    assert done.returncode == 2
    assert "someone/else is no folder, and the hub gives none by that id" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_takes_a_hub_id(cache, monkeypatch):
    monkeypatch.setattr("bnlstm_deploy.cli.serve.local", partial(found_in, cache))
    assert _found("digits.onnx") == "digits.onnx"
    file = cache / "models--someone--digits" / "snapshots" / COMMIT / "model.onnx"
    assert _found("hf:someone/digits") == f"digits={file}"
    assert _found("mine=hf:someone/digits@main") == f"mine={file}"
    file.unlink()
    with pytest.raises(InputError, match=r"has no model\.onnx; save it"):
        _found("hf:someone/digits")


def found_in(cache, path):
    model_id, _, revision = path.removeprefix("hf:").partition("@")
    return download(model_id, revision=revision or None, cache_dir=cache, local_files_only=True)


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"bnlstm-deploy\[hub\]"):
        local("hf:someone/digits")
