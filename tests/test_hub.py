"""The hub's mixin, on folders and on a cache of the hub's shape: nothing is fetched."""

import shutil

import numpy as np
import pytest
import torch

import bnlstm_deploy
from bnlstm_deploy import Session, hub, nn
from bnlstm_deploy.errors import InputError
from tests.models import randomize

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    rnn = randomize(nn.BNLSTM(2, 4, max_length=3, batch_first=True))
    model = hub.BNLSTMModel(rnn, 3)
    folder = tmp_path_factory.mktemp("hub") / "model"
    model.save_pretrained(folder)
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
