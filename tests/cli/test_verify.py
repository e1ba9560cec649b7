"""bnlstm-deploy verify: its options, each as a user would use it."""

import json
import shutil

import numpy as np
import onnx
import pytest

from tests.cli.command import run
from tests.cli.test_main import fails, folder
from tests.verification.mutants import set_array, times

pytestmark = pytest.mark.slow

__all__ = ["folder"]

QUICK = ("--search-seconds", "0")


@pytest.fixture(scope="module")
def broken(folder):
    """A file whose statistics are shifted by a step."""
    proto = onnx.load(folder / "m.onnx")
    for name in ("input_scale", "hidden_scale", "cell_scale", "cell_shift", "bias"):
        set_array(f"rnn.{name}_l0", lambda values: np.roll(values, 1, axis=0))(proto)
    onnx.save(proto, folder / "broken.onnx")
    return "broken.onnx"


def test_a_failure_is_diagnosed_and_leaves_a_bundle(folder, broken):
    arguments = ("--bundle", "bundle", "--json", "broken.json", "--html", "broken.html")
    result = run(folder, "verify", "ck", broken, *QUICK, *arguments)
    assert result.returncode == 1, result.stderr
    assert "FAILED" in result.stdout
    assert "origin: layer 0, forward direction of rnn, timestep 0: input product" in result.stdout
    assert "explained by: statistics of step t - 1 used at step t" in result.stdout
    assert "To reproduce it: python bundle/replay.py" in result.stdout
    assert (folder / "bundle" / "replay.py").is_file()
    report = json.loads((folder / "broken.json").read_text())
    assert report["diagnosis"]["origin"]["intermediate"] == "input product"
    assert not report["passed"]
    assert "statistics of step t - 1 used at step t" in (folder / "broken.html").read_text()
    again = run(folder, "verify", "ck", broken, *QUICK, "--bundle", "bundle")
    assert fails(again, "bundle exists; choose another name")


def test_a_report_is_judged_anew_without_running_anything(folder):
    path = folder / "kept.onnx"
    shutil.copy(folder / "m.onnx", path)
    assert run(folder, "verify", "ck", "kept.onnx", *QUICK, "--json", "r.json").returncode == 0
    path.unlink()
    strict = run(folder, "verify", "--recheck", "r.json", "--ratio", "1e-6", "--json", "s.json")
    assert run(folder, "verify", "--recheck", "r.json", "--ratio", "3").returncode == 0
    assert json.loads((folder / "s.json").read_text())["ratio_limit"] == 1e-6
    assert strict.returncode == (0 if json.loads((folder / "s.json").read_text())["passed"] else 1)
    (folder / "no.json").write_text("[1]")
    assert fails(run(folder, "verify", "--recheck", "no.json"), "holds no report")
    (folder / "old.json").write_text('{"schema_version": 0}')
    assert fails(run(folder, "verify", "--recheck", "old.json"), "schema_version is 0")
    assert fails(run(folder, "verify", "--recheck", "nowhere.json"), "cannot be read")


def test_data_of_ones_own(folder):
    x = np.load(folder / "x.npy")
    np.savez(folder / "labelled.npz", x=x, y=np.array([0, 1, 2, 0]))
    result = run(folder, "verify", "ck", "m.onnx", *QUICK, "--data", "labelled.npz")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "accuracy" in result.stdout
    np.savez(folder / "other.npz", z=x)
    assert fails(run(folder, "verify", "ck", "m.onnx", *QUICK, "--data", "other.npz"), "'z'")


def test_a_passed_check_is_recorded_unless_it_is_not_to_be(folder):
    shutil.copy(folder / "m.onnx", folder / "fresh.onnx")
    proto = onnx.load(folder / "fresh.onnx")
    kept = [p for p in proto.metadata_props if not p.key.startswith("bnlstm.verified.")]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    onnx.save(proto, folder / "fresh.onnx")
    before = (folder / "fresh.onnx").read_bytes()
    assert run(folder, "verify", "ck", "fresh.onnx", *QUICK, "--no-record").returncode == 0
    assert (folder / "fresh.onnx").read_bytes() == before
    assert run(folder, "verify", "ck", "fresh.onnx", *QUICK).returncode == 0
    assert "bnlstm.verified.ratio" in (folder / "fresh.onnx").read_bytes().decode("latin-1")
    facts = json.loads(run(folder, "inspect", "fresh.onnx", "--json").stdout)
    assert "ratio" in facts["verified"]


def test_a_failed_check_is_not_recorded(folder):
    proto = onnx.load(folder / "m.onnx")
    set_array("rnn.weight_hh_l0", times(1.1))(proto)
    onnx.save(proto, folder / "wrong.onnx")
    before = (folder / "wrong.onnx").read_bytes()
    assert run(folder, "verify", "ck", "wrong.onnx", *QUICK).returncode == 1
    assert (folder / "wrong.onnx").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ck",), "MODEL.onnx is missing"),
        (("ck", "m.onnx", "--providers", "tpu"), "'tpu' is not part of the onnxruntime installed"),
        (("ck", "m.onnx", "--providers", ""), "providers"),
        (("ck", "nowhere.onnx"), "nowhere.onnx does not exist"),
        (("m.onnx", "ck"), "pass CHECKPOINT first and then MODEL.onnx: ck m.onnx"),
        (("ck", "nowhere.onnx", "--html", "no/r.html"), "no/r.html cannot be written"),
        (("ck", "nowhere.onnx", "--json", "ck"), "ck is a folder; name a file in it"),
    ],
)
def test_bad_input_is_one_message(folder, arguments, message):
    assert fails(run(folder, "verify", *arguments), message)


def test_options_of_providers(folder):
    result = run(folder, "bench", "m.onnx", "--providers", "cpu:device_id=0")
    assert fails(result, "device_id")
    result = run(folder, "bench", "m.onnx", "--providers", "cuda:tf32=1,cpu")
    assert fails(result, "'cuda' is not part of the onnxruntime installed")
