"""The command line as a user runs it: what it writes, and its exit statuses."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from typer.testing import CliRunner

from bnlstm_deploy.checkpoint import save_checkpoint
from bnlstm_deploy.cli.main import app
from bnlstm_deploy.exporting.forms import scan
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.npz import read_npz
from bnlstm_deploy.version import __version__
from tests.cli.command import run
from tests.models import randomize


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with a checkpoint `ck`, its export `m.onnx` and inputs `x.npz`."""
    folder = tmp_path_factory.mktemp("cli")
    model = randomize(BNLSTMModel(BNLSTM(2, 8, batch_first=True, max_length=5), 3))
    save_checkpoint(model, folder / "ck")
    x = np.random.default_rng(0).standard_normal((4, 7, 2)).astype(np.float32)
    np.savez(folder / "x.npz", input=x)
    np.save(folder / "x.npy", x)
    assert run(folder, "convert", "ck", "-o", "m.onnx", "--no-verify").returncode == 0
    return folder


def fails(result, message):
    """Whether a command ended with one message, exit status 2 and no traceback."""
    assert result.returncode == 2, result.stdout + result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    return True


def test_convert_verifies_what_it_wrote(folder):
    result = run(folder, "convert", "ck", "-o", "again.onnx", "--opset", "18")
    assert result.returncode == 0, result.stderr
    assert "PASSED" in result.stdout
    assert "Wrote again.onnx" in result.stdout
    onnx.checker.check_model(onnx.load(folder / "again.onnx"), full_check=True)


def test_verify_passes_and_writes_its_report(folder):
    result = run(folder, "verify", "ck", "m.onnx", "--json", "report.json")
    assert result.returncode == 0, result.stderr
    report = json.loads((folder / "report.json").read_text())
    assert report["passed"]
    assert report["algebra_error"] <= 1e-10
    assert report["ratio"] <= 4


@pytest.mark.slow
def test_verify_of_a_changed_file_exits_1(folder):
    proto = onnx.load(folder / "m.onnx")
    arrays = [e for e in proto.graph.initializer if numpy_helper.to_array(e).any()]
    target = next(e for e in arrays if numpy_helper.to_array(e).dtype == np.float32)
    array = numpy_helper.to_array(target) * np.float32(1.01)
    target.CopyFrom(numpy_helper.from_array(array, target.name))
    onnx.save(proto, folder / "changed.onnx")
    result = run(folder, "verify", "ck", "changed.onnx")
    assert result.returncode == 1
    assert "FAILED" in result.stdout
    assert "allowed" in result.stdout


@pytest.mark.slow
def test_verify_names_a_file_exported_from_other_weights(folder):
    other = randomize(BNLSTMModel(BNLSTM(2, 8, batch_first=True, max_length=5), 3), seed=1)
    save_checkpoint(other, folder / "other", force=True)
    result = run(folder, "verify", "other", "m.onnx")
    assert result.returncode == 1
    assert "exported from other weights" in result.stdout


def test_run_continues_a_stream(folder):
    x = read_npz(folder / "x.npz")["input"]
    np.savez(folder / "first.npz", input=x[:, :3])
    np.savez(folder / "rest.npz", input=x[:, 3:])
    assert run(folder, "run", "m.onnx", "-i", "x.npy", "-o", "whole.npz").returncode == 0
    assert run(folder, "run", "m.onnx", "-i", "first.npz", "-o", "y1.npz").returncode == 0
    result = run(folder, "run", "m.onnx", "-i", "rest.npz", "-o", "y2.npz", "--state", "y1.npz")
    assert result.returncode == 0, result.stderr
    whole, parts = read_npz(folder / "whole.npz"), read_npz(folder / "y2.npz")
    np.testing.assert_allclose(parts["output"], whole["output"], atol=1e-6)
    assert parts["next_step"].tolist() == [7] * 4
    again = run(folder, "run", "m.onnx", "-i", "x.npy", "-o", "whole.npz")
    assert fails(again, "whole.npz exists")


def test_bench_measures_every_size(folder):
    result = run(
        folder,
        "bench",
        "m.onnx",
        "-b",
        "1",
        "-b",
        "3",
        "-t",
        "5",
        "-t",
        "9",
        "--seconds",
        "0",
        "--threads",
        "1",
        "--json",
        "bench.json",
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((folder / "bench.json").read_text())
    assert report["numbers"] == "float32"
    assert "m.onnx, float32, on CPUExecutionProvider" in result.stdout
    sizes = report["sizes"]
    assert [(s["batch_size"], s["length"]) for s in sizes] == [(1, 5), (1, 9), (3, 5), (3, 9)]
    assert all(s["median_ms"] > 0 for s in sizes)
    assert fails(run(folder, "bench", "m.onnx", "-b", "0"), "must be at least 1")


def test_inspect_shows_a_checkpoint_and_a_graph(folder):
    checkpoint = run(folder, "inspect", "ck")
    assert "hidden_norm_l0" in checkpoint.stdout
    facts = json.loads(run(folder, "inspect", "ck", "--json").stdout)
    assert run(folder, "convert", "ck", "-o", "verified.onnx").returncode == 0
    graph = json.loads(run(folder, "inspect", "verified.onnx", "--json").stdout)
    assert facts["checkpoint"]["sha256"] == graph["file"]["checkpoint_sha256"]
    assert facts["statistics"][0]["unseen"] == "5/5"
    assert {value["name"] for value in graph["values"]} >= {"input", "lengths", "next_step"}
    shown = run(folder, "inspect", "verified.onnx").stdout
    assert "recurrent layers" in shown
    assert "truth_error" in shown  # convert verified it, and wrote that into the file
    assert graph["verified"]["ratio"]


@pytest.mark.slow
def test_a_state_dict_with_a_config(folder):
    torch.save(randomize(BNLSTM(2, 3, max_length=5)).state_dict(), folder / "weights.pt")
    save_checkpoint(BNLSTM(2, 3, max_length=5), folder / "configured", force=True)
    config = ("--config", "configured/config.json")
    result = run(folder, "convert", "weights.pt", *config, "-o", "w.onnx", "--no-verify")
    assert result.returncode == 0, result.stderr
    assert run(folder, "verify", "weights.pt", "w.onnx", *config).returncode == 0


def truncate(folder):
    save_checkpoint(BNLSTM(2, 3, max_length=5), folder / "cut", force=True)
    weights = folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])


def unnamed(folder):
    np.save(folder / "one.npy", np.zeros((5, 4, 2), np.float32))
    (folder / "one.npy").rename(folder / "one.npz")


def negative(folder):
    model = BNLSTM(2, 3, max_length=5)
    model.cell_norm_l0.running_var[3, 1] = -1
    save_checkpoint(model, folder / "negative", force=True)


def nothing(folder):
    del folder


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        (nothing, ["convert", "nowhere", "-o", "n.onnx"], "nowhere does not exist"),
        (truncate, ["convert", "cut", "-o", "n.onnx"], "damaged or truncated"),
        (negative, ["convert", "negative", "-o", "n.onnx"], "step 3, feature 1 is -1"),
        (nothing, ["convert", "ck", "-o", "n.onnx", "--opset", "7"], "opset is 7"),
        (nothing, ["convert", "ck", "-o", "no/n.onnx"], "choose a folder that exists"),
        (nothing, ["convert", "ck"], "Missing option"),
        (nothing, ["verify", "ck", "n.onnx"], "n.onnx does not exist"),
        (nothing, ["verify", "ck", "ck/config.json"], "ONNX Runtime cannot load"),
        (nothing, ["verify", "ck", "m.onnx", "--providers", "cuda"], "bnlstm-deploy[gpu]"),
        (nothing, ["verify", "ck", "m.onnx", "--providers", ""], "providers is []"),
        (nothing, ["run", "m.onnx", "-i", "no.npz", "-o", "n.npz"], "no.npz does not exist"),
        (nothing, ["run", "m.onnx", "-i", "m.onnx", "-o", "n.npz"], "cannot be read as .npz"),
        (nothing, ["run", "m.onnx", "-i", "x.npz", "-o", "y.csv"], "written as .npz"),
        (nothing, ["run", "m.onnx", "-i", "x.npz", "-o", "no/n.npz"], "cannot be written"),
        (unnamed, ["recalibrate", "ck", "--data", "one.npz", "-o", "n.onnx"], "without a name"),
        (unnamed, ["convert", "ck", "--check", "one.npz", "-o", "n.onnx"], "without a name"),
        (unnamed, ["verify", "ck", "m.onnx", "--data", "one.npz"], "without a name"),
        (nothing, ["inspect", "nowhere"], "nowhere does not exist"),
        (nothing, ["melt"], "No such command"),
    ],
)
def test_bad_input_is_one_message_and_no_file(folder, prepare, arguments, message):
    prepare(folder)
    assert fails(run(folder, *arguments), message)
    assert not (folder / "n.onnx").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".n.onnx")]


def test_convert_keeps_an_existing_file_unless_forced(folder):
    (folder / "kept.onnx").write_text("precious")
    assert fails(run(folder, "convert", "ck", "-o", "kept.onnx"), "kept.onnx exists")
    assert (folder / "kept.onnx").read_text() == "precious"
    forced = ("--force", "--no-verify")
    assert run(folder, "convert", "ck", "-o", "kept.onnx", *forced).returncode == 0


@pytest.mark.slow
def test_convert_keeps_no_file_that_fails_its_check(folder, monkeypatch):
    """With a fault planted in the export, the check finds it and nothing gets the output's name."""
    whole = scan.function

    def faulty(site, *, materialized):
        function = whole(site, materialized=materialized)
        (row,) = (node for node in function.node if node.output[0] == "row")
        row.input[1] = "zero"  # the first statistics at all timesteps
        return function

    monkeypatch.setattr(scan, "function", faulty)
    result = CliRunner().invoke(app, ["convert", str(folder / "ck"), "-o", str(folder / "n.onnx")])
    assert result.exit_code == 1
    assert "FAILED" in result.output
    assert not (folder / "n.onnx").exists()


def test_help_and_version(folder):
    assert run(folder, "--version").stdout.strip() == __version__
    for command in ("inspect", "convert", "verify", "run", "bench", "recalibrate"):
        result = run(folder, command, "--help")
        assert result.returncode == 0
        assert "Example: bnlstm-deploy" in result.stdout


def test_several_lengths_give_a_file_each(folder):
    gpu = ("--target", "cuda", "--no-verify", "-o", "gpu.onnx")
    result = run(folder, "convert", "ck", *gpu, "--length", "6", "--length", "3")
    assert result.returncode == 0, result.stderr
    for time in (3, 6):
        facts = json.loads(run(folder, "inspect", f"gpu-T{time}.onnx", "--json").stdout)["file"]
        assert (facts["length"], facts["form"], facts["target"]) == (time, "unrolled", "cuda")
    assert not (folder / "gpu.onnx").exists()
    again = run(folder, "convert", "ck", *gpu, "--length", "3", "--length", "9")
    assert fails(again, "gpu-T3.onnx exists")
    assert not (folder / "gpu-T9.onnx").exists()
    twice = run(folder, "convert", "ck", *gpu, "--length", "3", "--length", "3")
    assert fails(twice, "pass each number of timesteps once")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_reduced_precision_is_verified_on_the_cpu(folder, dtype):
    result = run(folder, "convert", "ck", "-o", f"{dtype}.onnx", "--dtype", dtype)
    assert result.returncode == 0, result.stdout + result.stderr
    facts = json.loads(run(folder, "inspect", f"{dtype}.onnx", "--json").stdout)["file"]
    assert facts["dtype"] == dtype


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bench",), "[default: (1, 32)]"),
        (("deploy", "kserve"), "[default: (standard output)]"),
        (("serve",), "[default: (BNLSTM_DEPLOY_TOKEN of the environment, or none)]"),
    ],
)
def test_help_shows_defaults_that_are_words(arguments, words):
    result = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "300"})
    assert words in " ".join(result.output.split())


def test_a_dry_run_says_what_it_would_write_and_writes_nothing(folder):
    before = sorted(folder.iterdir())
    done = run(folder, "convert", "ck", "-o", "dry.onnx", "--dry-run", "--json", "dry.json")
    assert done.returncode == 0
    (facts,) = json.loads((folder / "dry.json").read_text())
    (folder / "dry.json").unlink()
    assert (facts["file"], facts["form"], facts["numbers"]) == ("dry.onnx", "scan", "float32")
    assert facts["us_per_timestep"] > 0
    assert facts["bytes"] > 0
    for part in ("would write dry.onnx", "MB", "float32", "scan, factored", "us, of one stream"):
        assert part in done.stdout
    assert sorted(folder.iterdir()) == before
    over = run(folder, "convert", "ck", "-o", "m.onnx", "--dry-run")  # what is there may stay
    assert over.returncode == 0


def test_convert_writes_its_facts(folder):
    done = run(folder, "convert", "ck", "-o", "facts.onnx", "--json", "facts.json")
    assert done.returncode == 0
    (facts,) = json.loads((folder / "facts.json").read_text())
    assert facts["bytes"] == (folder / "facts.onnx").stat().st_size
    for name in ("facts.onnx", "facts.json"):
        (folder / name).unlink()


def test_layouts_in_json(folder):
    found = json.loads(run(folder, "layouts", "--json").stdout)
    assert "jihunchoi" in [layout["layout"] for layout in found]


def test_a_dry_run_says_why_a_file_cannot_run_here(folder):
    done = run(folder, "convert", "ck", "-o", "dry.onnx", "--dry-run", "--dtype", "bfloat16")
    assert done.returncode == 0
    assert "runs here" in done.stdout
    assert "no: " in done.stdout
