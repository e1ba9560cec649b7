"""Files that commands read and write: what is not theirs is refused, and nothing is lost."""

import os
import sys

import numpy as np
import pytest
import torch
from torch import nn

from bnlstm_deploy.checkpoint import import_checkpoint, save_checkpoint
from bnlstm_deploy.cli.main import main
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.npz import read_npz
from tests.checkpoint.test_read import checkpoint
from tests.models import randomize


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint `ck`, its export, one of another code's, inputs, and the output of a run."""
    folder = tmp_path_factory.mktemp("files")
    model = randomize(BNLSTM(3, 4, max_length=5))
    save_checkpoint(model, folder / "ck")
    export(model, folder / "m.onnx")
    export(randomize(BNLSTM(3, 4, bidirectional=True, max_length=5)), folder / "both.onnx")
    torch.save(checkpoint(), folder / "other.pt")
    x = np.random.default_rng(0).standard_normal((6, 4, 3)).astype(np.float32)
    np.savez(folder / "x.npz", input=x)
    return folder


@pytest.fixture
def command(made, monkeypatch, capsys):
    """Runs `bnlstm-deploy` in the folder; returns exit status, output and errors."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("COLUMNS", "500")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bnlstm-deploy", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return run


@pytest.fixture
def refused(command, made):
    """Checks that a command is one message, and leaves all files as they were."""

    def run(message, *arguments):
        before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
        status, out, err = command(*arguments)
        assert (status, message in err) == (2, True), out + err
        assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before

    return run


RUN = ("run", "m.onnx", "-i", "x.npz", "-o", "y.npz")


def save(path, like, **changes):
    with np.load(like) as held:
        arrays = {**held, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def test_a_state_is_what_a_run_of_the_model_wrote(command, refused, made):
    assert command("run", "m.onnx", "-i", "x.npz", "-o", "first.npz")[0] == 0
    assert command(*RUN, "--state", "first.npz", "--force")[0] == 0
    first, second = (read_npz(made / name) for name in ("first.npz", "y.npz"))
    assert (second["next_step"] == first["next_step"] + 6).all()
    again = (*RUN, "--force", "--state")
    refused(
        "lacks ['c_n', 'h_n', 'next_step'] and has the unknown arrays ['input']", *again, "x.npz"
    )
    for name in ("h_n", "c_n", "next_step"):
        save("part.npz", "first.npz", **{name: None})
        refused(f"lacks ['{name}']", *again, "part.npz")
    save("more.npz", "first.npz", rnn=np.zeros(3))
    refused("has the unknown arrays ['rnn']", *again, "more.npz")
    both = ("run", "both.onnx", "-i", "x.npz", "-o", "y.npz", "--force", "--state", "first.npz")
    refused("--state is given for a model with two directions", *both)


def test_axes_that_nothing_tells_are_asked_for(command, refused, made):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((6, 6, 3)).astype(np.float32)
    np.savez(made / "square.npz", x=x, y=np.zeros(6), lengths=np.full(6, 5))
    recalibrate = ("recalibrate", "other.pt", "--data", "square.npz", "--batch-size", 2)
    refused(
        "shape (6, 6, 3), which may be (N, T, D) and (T, N, D); say so by --batch-first or "
        "--time-major",
        *(*recalibrate, "-o", "new"),
    )
    for number, flag in enumerate(("--time-major", "--batch-first")):
        status, out, err = command(*recalibrate, flag, "-o", f"new{number}")
        assert status == 0, err
        assert "not used of square.npz: lengths, y" in out
    one, other = (
        {path.name: path.read_bytes() for path in (made / name).iterdir()}
        for name in ("new0", "new1")
    )
    assert one["model.safetensors"] != other["model.safetensors"]


def test_lengths_tell_the_axes(command, refused, made):
    x = np.random.default_rng(0).standard_normal((7, 5, 3)).astype(np.float32)
    np.savez(made / "seven.npz", x=x, lengths=np.full(7, 5))
    np.savez(made / "five.npz", x=x, lengths=np.full(5, 7))
    recalibrate = ("recalibrate", "other.pt", "--lengths", "--batch-size", 2)
    refused(
        "(N, T, D) and nothing else; say so by --batch-first",
        *(*recalibrate, "--data", "seven.npz", "-o", "seven"),
    )
    status, _, err = command(*recalibrate, "--data", "five.npz", "-o", "five")
    assert status == 0, err


@pytest.mark.parametrize(
    "arguments",
    [
        ("convert", "other.pt", "-o", "other.pt", "--force", "--no-verify"),
        ("convert", "ck", "-o", "ck/model.safetensors", "--force", "--no-verify"),
        ("run", "m.onnx", "-i", "x.npz", "-o", "x.npz", "--force"),
        ("verify", "ck", "m.onnx", "--json", "m.onnx"),
        ("verify", "ck", "m.onnx", "--html", "ck/config.json"),
        ("bench", "m.onnx", "--json", "m.onnx"),
        ("recalibrate", "ck", "--data", "x.npz", "-o", "ck", "--force"),
        (
            "deploy",
            "kserve",
            "m.onnx",
            "--storage-uri",
            "pvc://a/b",
            "--image",
            "i",
            "-o",
            "m.onnx",
            "--force",
        ),
        ("deploy", "ray", "m.onnx", "-o", "m.onnx", "--force"),
    ],
    ids=" ".join,
)
def test_what_a_command_reads_it_does_not_replace(refused, arguments):
    refused("is what this command reads", *arguments)


@pytest.mark.parametrize("force", [False, True])
def test_devices_and_links_are_not_replaced(refused, made, force):
    links = {"dangling.onnx": "nowhere", "link.onnx": "m.onnx"}
    for name, target in links.items():
        (made / name).unlink(missing_ok=True)
        (made / name).symlink_to(target)
    options = ["--force"] * force
    for path in (os.devnull, *links):
        message = f"{path} is a" if force else f"{path} exists; choose another name"
        refused(message, "convert", "ck", "-o", path, "--no-verify", *options)
    assert {name: str((made / name).readlink()) for name in links} == links


def test_names_are_printed_as_they_are(command, made):
    name = "[bold]:smile:[red].onnx"
    status, out, err = command("convert", "ck", "-o", name, "--no-verify")
    assert status == 0, err
    assert f"Wrote {name}: " in out
    assert (made / name).exists()


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = BNLSTM(3, 4, max_length=5)

    def forward(self, x):
        return self.rnn(x)[0]


def takes(size):
    return size


def raises():
    raise KeyError("no such data set")


NUMBER = 3


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("takes", "TypeError: takes() missing 1 required positional argument"),
        ("raises", "KeyError: 'no such data set' ("),
        ("NUMBER", "TypeError: 'int' object is not callable"),
        ("nothing", "has no attribute 'nothing'"),
    ],
)
def test_factories_that_make_no_model(refused, factory, message):
    model = f"{__name__}:{factory}"
    refused(message, "convert", "--model", model, "-o", "n.onnx", "--no-verify")


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_state_dict_of_a_wrapped_model(command, made, wrapper):
    state = randomize(Own()).state_dict()
    torch.save({wrapper + name: tensor for name, tensor in state.items()}, made / "wrapped.pt")
    np.savez(made / "example.npz", x=np.zeros((5, 2, 3), np.float32))
    options = ("--inputs", "example.npz", "-o", f"{wrapper}onnx", "--no-verify")
    status, _, err = command("convert", "wrapped.pt", "--model", f"{__name__}:Own", *options)
    assert status == 0, err


class Held(nn.Module):
    """A model whose own names are those of a wrapper."""

    def __init__(self):
        super().__init__()
        self.module = Own()

    def forward(self, x):
        return self.module(x)


def test_a_submodule_called_module_is_no_wrapper(command, made):
    torch.save(randomize(Held()).state_dict(), made / "held.pt")
    options = ("--inputs", "held.npz", "-o", "held.onnx", "--no-verify")
    np.savez(made / "held.npz", x=np.zeros((5, 2, 3), np.float32))
    status, _, err = command("convert", "held.pt", "--model", f"{__name__}:Held", *options)
    assert status == 0, err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.to(torch.complex64), "rnn.weight_hh_l0 is complex64; weights"),
        (lambda t: t > 0, "rnn.weight_hh_l0 is bool; weights"),
        (lambda t: t.long(), "rnn.weight_hh_l0 is int64; weights"),
    ],
)
def test_strange_weights_of_a_whole_model(refused, made, change, message):
    state = randomize(Own()).state_dict()
    torch.save(state | {"rnn.weight_hh_l0": change(state["rnn.weight_hh_l0"])}, made / "bad.pt")
    options = ("--model", f"{__name__}:Own", "-o", "n.onnx")
    refused(message, "convert", "bad.pt", *options)


def test_counts_of_a_whole_model_are_no_fractions(refused, made):
    state = randomize(Own()).state_dict()
    name = "rnn.cell_norm_l0.num_batches_tracked"
    torch.save(state | {name: state[name] + 0.5}, made / "bad.pt")
    options = ("--model", f"{__name__}:Own", "-o", "n.onnx")
    refused(f"{name} is float32; the model has int64", "convert", "bad.pt", *options)


def test_recorded_states_of_another_arrangement(command, made):
    model = import_checkpoint(made / "other.pt").model.double()
    x = torch.randn(6, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output, (h, c) = model(x)
    arrays = {"x": x.numpy(), "output": output.numpy(), "h_n": h.numpy(), "c_n": c.numpy() + 1}
    np.savez(made / "recorded.npz", **arrays)
    convert = ("convert", "other.pt", "-o", "checked.onnx", "--no-verify", "--check")
    status, out, err = command(*convert, "recorded.npz")
    assert (status, (made / "checked.onnx").exists()) == (1, False), err
    assert "does not match recorded.npz: c_n differs" in out
    assert "The output agrees, so the weights are these" in out
    assert "other weights" not in out
    status, out, err = command(*convert, "recorded.npz", "--no-check-states")
    assert status == 0, err
    assert "matches recorded.npz" in out
