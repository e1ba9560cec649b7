"""Other code's checkpoints and whole models, at the command line."""

import importlib
import json
import re

import numpy as np
import onnxruntime as ort
import pytest
import torch
from typer.testing import CliRunner

from bnlstm_deploy.checkpoint import load_checkpoint, save_checkpoint
from bnlstm_deploy.cli.main import app
from bnlstm_deploy.errors import BnlstmError
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.npz import read_npz
from tests.checkpoint.sources import SOURCES
from tests.checkpoint.test_loading import to_torch
from tests.models import randomize

pytestmark = pytest.mark.slow


class Result:
    """What a command printed, and how it ended; the errors that `main` prints included."""

    def __init__(self, result):
        self.status, self.text = result.exit_code, re.sub(r"\s+", " ", result.output)
        if isinstance(result.exception, BnlstmError):
            self.status, self.text = 2, self.text + str(result.exception)
        elif result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: Result(CliRunner().invoke(app, arguments))


@pytest.fixture
def source(run, tmp_path):
    """A checkpoint `rnn.pt` with prefix and head, and a recording `recorded.npz`."""
    source = SOURCES["jihunchoi_wrapped"](0)
    torch.save(to_torch(source.tensors), tmp_path / "rnn.pt")
    output, h_n, c_n = source.run(source.x)
    np.savez(tmp_path / "recorded.npz", x=source.x, output=output, h_n=h_n, c_n=c_n)
    return source


def test_layouts_are_listed_and_shown(run, tmp_path):
    listed = run("layouts")
    assert "jihunchoi" in listed.text
    assert "musyoku" in listed.text
    shown = CliRunner().invoke(app, ["layouts", "show", "hellozgy"]).output
    (tmp_path / "mine.toml").write_text(shown)
    assert 'gates = "ifog"' in shown
    unknown = run("layouts", "show", "nobody")
    assert unknown.status == 2
    assert "no layout 'nobody'" in unknown.text


def test_convert_recognizes_says_what_it_assumes_and_meets_the_recording(run, source, tmp_path):
    result = run("convert", "rnn.pt", "-o", "m.onnx", "--check", "recorded.npz", "--batch-first")
    assert result.status == 0, result.text
    assert "layout jihunchoi" in result.text
    assert "prefix 'rnn.'" in result.text
    assert "left over: fc.weight, fc.bias" in result.text
    assert "assumed, since no key tells: gate order f,i,o,g; eps 1e-05" in result.text
    assert "matches recorded.npz" in result.text
    assert "PASSED" in result.text
    session = ort.InferenceSession(tmp_path / "m.onnx")
    output = session.run(["output"], {"input": source.x.astype(np.float32)})[0]
    np.testing.assert_allclose(output, source.run(source.x)[0], atol=1e-5)
    verified = run("verify", "rnn.pt", "m.onnx", "--batch-first")
    assert verified.status == 0, verified.text


def test_a_wrong_layout_is_caught_by_the_recording_and_the_right_one_named(run, source, tmp_path):
    shown = CliRunner().invoke(app, ["layouts", "show", "jihunchoi"]).output
    (tmp_path / "mine.toml").write_text(shown.replace("fiog", "ifog"))
    arguments = ("convert", "rnn.pt", "-o", "m.onnx", "--layout", "mine.toml")
    result = run(*arguments, "--check", "recorded.npz")
    assert result.status == 1
    assert "does not match recorded.npz" in result.text
    assert "It matches with gate order fiog" in result.text
    assert "layouts show mine" not in result.text
    assert not (tmp_path / "m.onnx").exists()
    unchecked = run(*arguments, "--no-verify")  # nothing can tell, so the assumption is printed
    assert unchecked.status == 0
    assert "gate order i,f,o,g" in unchecked.text


def test_other_weights_match_in_no_way(run, source, tmp_path):
    recording = read_npz(tmp_path / "recorded.npz")
    np.savez(tmp_path / "recorded.npz", **recording | {"output": recording["output"] + 0.1})
    result = run("convert", "rnn.pt", "-o", "m.onnx", "--check", "recorded.npz")
    assert result.status == 1
    assert "No gate order, eps, forget bias" in result.text


@pytest.mark.parametrize("pooling", ["last", "every"])
def test_a_head_is_kept_on_request(run, source, tmp_path, pooling):
    result = run("convert", "rnn.pt", "-o", "m.onnx", "--head", pooling, "--no-verify")
    assert result.status == 0, result.text
    (output, *_) = ort.InferenceSession(tmp_path / "m.onnx").get_outputs()
    assert len(output.shape) == (2 if pooling == "last" else 3)


def test_forms_and_merging_at_the_command_line(run, source, tmp_path):
    unrolled = ("--form", "unrolled", "--length", "6", "--folding", "materialized", "--no-verify")
    result = run("convert", "rnn.pt", "-o", "u.onnx", *unrolled)
    assert result.status == 0, result.text
    assert "form unrolled, materialized" in result.text
    refused = run("convert", "rnn.pt", "-o", "l.onnx", "--form", "lstm")
    assert refused.status == 2
    assert "the cell is normalized" in refused.text
    merged = run("convert", "rnn.pt", "-o", "t.onnx", "--merge-tolerance", "0.5")
    assert merged.status == 0, merged.text
    assert "moves outputs on purpose: by up to" in merged.text
    graph = run("inspect", "t.onnx").text
    assert "merge_tolerance" in graph


MODULE = """
import torch
from bnlstm_deploy import BNLSTM

class Tagger(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(20, 3)
        self.first = BNLSTM(3, 4, batch_first=True, max_length=3)
        self.blocks = torch.nn.ModuleList([BNLSTM(4, 5, batch_first=True, max_length=2)])
        self.score = torch.nn.Linear(5, 2)

    def forward(self, tokens):
        output, _ = self.first(self.embed(tokens))
        return self.score(self.blocks[0](output)[0])

def make():
    torch.manual_seed(0)
    return Tagger()

def nothing():
    return 3
"""


def test_a_whole_model_of_ones_own(run, tmp_path):
    (tmp_path / "tagger_module.py").write_text(MODULE)
    np.savez(tmp_path / "example.npz", tokens=np.arange(14).reshape(2, 7))
    own = ("--model", "tagger_module:make", "--inputs", "example.npz")
    result = run("convert", "-o", "tagger.onnx", *own, "--no-verify")
    assert result.status == 0, result.text
    names = {value.name for value in ort.InferenceSession(tmp_path / "tagger.onnx").get_outputs()}
    assert names >= {"output", "first.h_n", "blocks.0.c_n"}
    state = importlib.import_module("tagger_module").make().state_dict()
    torch.save({"state_dict": state}, tmp_path / "tagger.pt")
    result = run("convert", "tagger.pt", "-o", "tagger2.onnx", *own, "--no-verify")
    assert result.status == 0, result.text
    assert run("verify", "tagger.pt", "tagger2.onnx", *own).status == 0
    torch.save({k: v for k, v in state.items() if k != "score.bias"}, tmp_path / "cut.pt")
    for arguments, message in (
        (("cut.pt", "-o", "n.onnx", *own), 'Missing key(s) in state_dict: "score.bias"'),
        (("-o", "n.onnx", "--model", "tagger_module"), "pass package.module:factory"),
        (("-o", "n.onnx", "--model", "nowhere:make"), "No module named 'nowhere'"),
        (("-o", "n.onnx", "--model", "tagger_module:none"), "no attribute 'none'"),
        (("-o", "n.onnx", "--model", "tagger_module:nothing"), "returns a int"),
        (("-o", "n.onnx", "--model", "tagger_module:make"), "needs example inputs"),
        (("-o", "n.onnx", *own, "--layout", "mrubio"), "--layout cannot be used with --model"),
        (("-o", "n.onnx"), "neither CHECKPOINT nor --model"),
        (("cut.pt", "-o", "n.onnx", "--inputs", "example.npz"), "--inputs belongs to --model"),
    ):
        result = run("convert", *arguments)
        assert result.status == 2, result.text
        assert message in result.text
        assert not (tmp_path / "n.onnx").exists()
    np.savez(tmp_path / "example.npz", words=np.arange(14).reshape(2, 7))
    result = run("convert", "-o", "n.onnx", *own)
    assert result.status == 2
    assert "name the arrays after the arguments of Tagger.forward: ['tokens']" in result.text


def test_recalibrate_writes_a_new_checkpoint_of_any_layout(run, source, tmp_path):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((50, 8, 3)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, lengths=generator.integers(1, 9, 50))
    result = run(
        "recalibrate",
        "rnn.pt",
        "--data",
        "x.npz",
        "-o",
        "new",
        "--batch-first",
        "--head",
        "last",
        "--batch-size",
        "7",
    )
    assert result.status == 0, result.text
    assert "layout jihunchoi" in result.text
    assert "statistics of 50 sequences" in result.text
    old, new = (load_checkpoint(tmp_path / n) for n in ("rnn.pt", "new"))
    assert isinstance(new, BNLSTMModel)
    torch.testing.assert_close(new.rnn.weight_hh_l1, old.weight_hh_l1)
    products = torch.from_numpy(x[:, 0]) @ new.rnn.weight_ih_l0.T
    torch.testing.assert_close(new.rnn.input_norm_l0.running_mean[0], products.mean(0))
    again = run("recalibrate", "rnn.pt", "--data", "x.npz", "-o", "new")
    assert again.status == 2
    assert "exists" in again.text
    ragged = run("recalibrate", "new", "--data", "x.npz", "-o", "ragged", "--lengths")
    assert ragged.status == 0, ragged.text
    other = load_checkpoint(tmp_path / "ragged").rnn
    assert not torch.equal(other.input_norm_l0.running_mean, new.rnn.input_norm_l0.running_mean)


@pytest.mark.parametrize(
    ("arrays", "arguments", "message"),
    [
        ({"y": np.ones((4, 3, 2))}, (), "it needs one of input and x"),
        ({"x": np.ones((4, 3, 2))}, ("--lengths",), "and lengths"),
        ({"x": np.ones((4, 3))}, (), "of shape (4, 3)"),
        ({"x": np.full((4, 3, 2), np.nan)}, (), "finite"),
        ({"x": np.ones((4, 3, 5))}, (), "input"),
        ({"x": np.ones((4, 3, 2)), "lengths": np.full(4, 9)}, ("--lengths",), "lengths"),
    ],
)
def test_bad_data_for_recalibration(run, tmp_path, arrays, arguments, message):
    save_checkpoint(randomize(BNLSTM(2, 3, batch_first=True, max_length=3)), tmp_path / "ck")
    np.savez(tmp_path / "x.npz", **arrays)
    result = run("recalibrate", "ck", "--data", "x.npz", "-o", "new", *arguments)
    assert result.status == 2
    assert message in result.text
    assert not (tmp_path / "new").exists()


def test_inspect_shows_the_layout_and_warns(run, source, tmp_path):
    facts = json.loads(CliRunner().invoke(app, ["inspect", "rnn.pt", "--json"]).output)
    assert facts["checkpoint"]["layout"] == "jihunchoi"
    assert "eps 1e-05" in facts["checkpoint"]["assumed"]
    assert facts["warnings"] == []
    tensors = to_torch(source.tensors)
    tensors["rnn.cell_0.bn_ih.running_mean_4"].zero_()
    tensors["rnn.cell_0.bn_ih.running_var_4"].fill_(1)
    tensors["rnn.cell_1.bn_hh.running_var_3"][2] = 0
    torch.save(tensors, tmp_path / "sick.pt")
    text = run("inspect", "sick.pt").text
    assert "input_norm_l0: steps 4 of 5 were never visited" in text
    assert "hidden_norm_l1: the variance of 1 features is 0 at steps 3" in text
    assert "the folded scale reaches" in text
    assert run("inspect", "models").status == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rnn.pt", "--layout", "nobody"), "no layout 'nobody'"),
        (("rnn.pt", "--layout", "bad.toml"), "missing required field `weights`"),
        (("rnn.pt", "--layout", "mrubio"), "missing: layers.0.weight_hh"),
        (("rnn.pt", "--prefix", "gru."), "no known layout matches"),
        (("odd.npz",), "no known layout matches"),
        (("rnn.pt", "--check", "odd.npz"), "lacks ['x', 'output']"),
        (("rnn.pt", "--check", "missing.npz"), "missing.npz does not exist"),
    ],
)
def test_bad_imports_are_one_message_and_no_file(run, source, tmp_path, arguments, message):
    (tmp_path / "bad.toml").write_text('title = "x"\nweight = 1\n')
    np.savez(tmp_path / "odd.npz", a=np.ones(3))
    result = run("convert", *arguments, "-o", "n.onnx")
    assert result.status == 2, result.text
    assert message in result.text
    assert not (tmp_path / "n.onnx").exists()
