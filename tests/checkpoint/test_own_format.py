"""Native checkpoints: what is written is read back, and what is damaged is a clear error."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from bnlstm_deploy.checkpoint import load_checkpoint, save_checkpoint, state_sha256
from bnlstm_deploy.errors import CheckpointError, InputError
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from tests.models import randomize


@pytest.fixture
def model():
    rnn = BNLSTM(
        2, 3, 2, batch_first=True, bidirectional=True, max_length=4, eps=1e-3, momentum=None
    )
    return randomize(BNLSTMModel(rnn, 5, "every"))


@pytest.fixture
def folder(model, tmp_path):
    save_checkpoint(model, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def assert_same(one, other):
    assert repr(one) == repr(other)
    x = torch.randn(2, 6, 2, dtype=next(one.parameters()).dtype)
    torch.testing.assert_close(one(x), other(x), rtol=0, atol=0)


def test_a_model_comes_back_as_it_was(model, folder):
    loaded = load_checkpoint(folder)
    assert not loaded.training
    assert_same(loaded, model)


def test_layers_without_a_head_and_float64(tmp_path):
    rnn = randomize(BNLSTM(2, 3, max_length=4, normalize=("cell",), beta=(), dtype=torch.float64))
    save_checkpoint(rnn, tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.weight_ih_l0.dtype == torch.float64
    x = torch.randn(6, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(loaded(x), rnn(x), rtol=0, atol=0)


def test_a_torch_state_dict_with_a_config(model, folder, tmp_path):
    torch.save(model.state_dict(), folder / "weights.pt")
    assert_same(load_checkpoint(folder / "weights.pt"), model)
    torch.save(model.state_dict(), tmp_path / "elsewhere.pt")
    loaded = load_checkpoint(tmp_path / "elsewhere.pt", config=folder / "config.json")
    assert_same(loaded, model)


def test_the_hash_is_that_of_the_file(model, folder):
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert state_sha256(model) == digest
    model.head.bias.data[0] += 1
    assert state_sha256(model) != digest


def test_nothing_is_overwritten_unless_forced(model, folder):
    with pytest.raises(InputError, match=r"exists; choose another name"):
        save_checkpoint(model, folder)
    save_checkpoint(model, folder, force=True)
    save_checkpoint(model, folder, exist_ok=True)


class Unpickled:
    def __reduce__(self):
        return (print, ("code ran",))


def write_code(folder):
    torch.save({"a": Unpickled()}, folder / "weights.pt")
    return folder / "weights.pt"


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return folder


def truncate_torch(folder):
    path = folder / "weights.pt"
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-1000])
    return path


def save_list(folder):
    torch.save([torch.zeros(2)], folder / "weights.pt")
    return folder / "weights.pt"


def save_half(folder):
    model = load_checkpoint(folder).half()
    torch.save(model.state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


def put_nan(folder):
    model = load_checkpoint(folder)
    model.head.weight.data[0, 0] = float("nan")
    save_checkpoint(model, folder, force=True)
    return folder


def save_other(folder):
    save_checkpoint(BNLSTM(7, 3, max_length=9), folder / "other")
    (folder / "other" / "config.json").write_text((folder / "config.json").read_text())
    return folder / "other"


def drop_config(folder):
    (folder / "config.json").unlink()
    return folder


def break_config(folder):
    (folder / "config.json").write_text('{"rnn": ')
    return folder


def config_is_a_list(folder):
    (folder / "config.json").write_text("[1]")
    return folder


def configure(**changes):
    def change(folder):
        edit(folder, lambda config: config.update(changes))
        return folder

    return change


def configure_rnn(**changes):
    def change(folder):
        edit(folder, lambda config: config["rnn"].update(changes))
        return folder

    return change


def without_eps(folder):
    edit(folder, lambda config: config["rnn"].pop("eps"))
    return folder


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: folder / "nowhere", "nowhere does not exist"),
        (lambda folder: folder / "config.json", "suffix '.json'"),
        (write_code, "torch.save\\(model.state_dict\\(\\)"),
        (truncate, "damaged or truncated"),
        (truncate_torch, "damaged or truncated"),
        (save_list, "holds a list"),
        (save_half, "torch.float16"),
        (put_nan, "holds NaN or infinity in head.weight"),
        (save_other, "(?s)missing: .*more of these.*unknown: "),
        (drop_config, "config.json does not exist"),
        (break_config, "cannot be read as JSON"),
        (config_is_a_list, "Expected `object`, got `array`"),
        (configure(format_version=2), "format_version 2"),
        (configure(colour="red"), "unknown fields \\$.colour"),
        (configure(head={"out_features": 5}), "missing required field `pooling` - at `\\$.head`"),
        (configure(head={"out_features": 5, "pooling": "mean"}), "'mean' - at `.*head.pooling`"),
        (without_eps, "missing required field `eps`"),
        (configure_rnn(hidden_size=-1), "hidden_size is -1"),
        (configure_rnn(hidden_size="big"), "hidden_size`, which is 'big'"),
        (configure_rnn(max_length=3), "has shape \\(4,\\), the configuration gives \\(3,\\)"),
    ],
)
def test_damage_is_one_clear_error(folder, capsys, damage, message):
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(damage(folder))
    assert capsys.readouterr().out == ""  # and no code of the checkpoint ran


def test_weights_that_cannot_be_written_leave_the_old_ones(tmp_path, monkeypatch):
    model = BNLSTM(2, 3, max_length=2)
    save_checkpoint(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = Path.write_bytes

    def full(path, content):
        write(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"safetensors cannot be written \(No space left"):
        save_checkpoint(BNLSTM(2, 3, max_length=2), tmp_path, force=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
