"""verify --endpoint: the check through a server."""

import json
import shutil

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from bnlstm_deploy.checkpoint import save_checkpoint
from bnlstm_deploy.cli.main import app
from bnlstm_deploy.client import Client
from bnlstm_deploy.client.sequence import ServerSequence
from bnlstm_deploy.errors import InputError, ServingError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.verification.measuring.endpoint import Endpoint
from tests.cli.command import run
from tests.cli.test_main import fails
from tests.models import randomize
from tests.serve.servers import running
from tests.verification.mutants import set_array, times
from tests.verification.quick import check

pytestmark = pytest.mark.slow

QUICK = ("--search-seconds", "0")


def digits(seed=0, **arguments):
    rnn = BNLSTM(2, 8, **{"batch_first": True, "max_length": 5} | arguments)
    return randomize(BNLSTMModel(rnn, 3), seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint `ck` and its export `m.onnx`; and what else is served."""
    folder = tmp_path_factory.mktemp("endpoint")
    save_checkpoint(digits(), folder / "ck")
    export(digits(), folder / "m.onnx")
    export(digits(1), folder / "other.onnx")
    export(digits(max_length=4), folder / "shorter.onnx")
    randomize(wide := BNLSTMModel(BNLSTM(3, 8, batch_first=True, max_length=5), 3))
    export(wide, folder / "wide.onnx")
    export(digits(bidirectional=True), folder / "both.onnx")
    proto = onnx.load(folder / "m.onnx")
    set_array("rnn.weight_hh_l0", times(1.01))(proto)
    onnx.save(proto, folder / "wrong.onnx")
    return folder


@pytest.fixture(scope="module")
def models(folder):
    with running(folder) as server:
        yield f"http://{server.http}/v2/models"


def stages(report):
    return {stage.name: stage.passed for stage in report.stages}


def test_a_served_model_is_checked_as_its_file_is(folder, models):
    endpoint = f"{models}/m"
    report = check(digits(), folder / "m.onnx", endpoint=endpoint, search_seconds=0.2)
    assert report.passed, report.failures
    assert stages(report).keys() == {
        "structure",
        "algebra",
        "precision",
        "conditions",
        "worst case",
    }
    assert report.environment["providers"] == endpoint
    assert {c.provider for c in report.precision} == {endpoint}
    found = {finding.name: finding.detail for finding in report.structure}
    assert found["served inputs and outputs"] == "those of m are the file's"
    assert "the checkpoint of the file here" in found["served file"]
    cases = {c.case for c in report.precision}
    chunked = {case for case in cases if case.endswith(tuple("0123456789")) and "chunks" in case}
    assert chunked
    assert {f"{case}, state on the server" for case in chunked} <= cases
    alone = {c.case for c in check(digits(), folder / "m.onnx").precision}
    # What a session and a server refuse, a file must compute all the same.
    taken = {case for case in alone if "above T" not in case}
    assert taken == {case for case in cases if "server" not in case}
    assert taken != alone


def test_a_model_that_cannot_stream(folder, models):
    endpoint = f"{models}/both/versions/1"
    report = check(digits(bidirectional=True), folder / "both.onnx", endpoint=endpoint)
    assert report.passed, report.failures
    assert not any("chunks" in c.case for c in report.precision)


@pytest.mark.parametrize(
    ("served", "failed", "words"),
    [
        ("other", {"structure", "precision"}, "its checkpoint_sha256 differ"),
        ("wrong", {"precision"}, "the checkpoint of the file here"),
        ("wide", {"structure"}, "input is served as FP32 [-1, -1, 3], the file has FP32"),
        ("both", {"structure"}, "start_step is served as nothing, the file has INT64 [-1]"),
        ("shorter", {"structure", "precision"}, "its checkpoint_sha256, layers differ"),
    ],
)
def test_another_model_fails(folder, models, served, failed, words):
    report = check(digits(), folder / "m.onnx", endpoint=f"{models}/{served}")
    verdicts = stages(report)
    assert {name for name, passed in verdicts.items() if not passed} >= failed
    assert verdicts["algebra"]
    assert any(words in finding.detail for finding in report.structure)


def test_a_served_file_with_a_wrong_array_is_diagnosed(folder, models):
    report = check(digits(), folder / "m.onnx", endpoint=f"{models}/wrong")
    assert report.diagnosis["fails"]
    assert not report.diagnosis["reproduced"]  # by the file here, which is right


@pytest.fixture
def swapped(monkeypatch):
    """The server's states are those of another stream."""

    def infer(self, feeds, **arguments):
        other = {name: array[::-1] for name, array in feeds.items()}
        return plain(self, other if self._last is None else feeds, **arguments)

    plain = ServerSequence.infer
    monkeypatch.setattr(ServerSequence, "infer", infer)


def test_states_on_the_server_are_checked(folder, models, swapped):
    report = check(digits(), folder / "m.onnx", endpoint=f"{models}/m")
    assert report.failures
    assert {"state on the server" in failure.case for failure in report.failures} == {True}


def test_a_server_that_does_not_tell_its_checkpoint(folder, models, monkeypatch):
    def get(self, path):
        if "page" in path:
            raise ServingError("no page")
        return plain(self, path)

    plain = Client.get
    monkeypatch.setattr(Client, "get", get)
    report = check(digits(), folder / "m.onnx", endpoint=f"{models}/m")
    assert report.passed
    (found,) = (finding for finding in report.structure if finding.name == "served file")
    assert found.detail == "not compared: the server does not tell its checkpoint"


def test_the_command(folder, models):
    before = (folder / "m.onnx").read_bytes()
    files = ("--json", "r.json", "--html", "r.html")
    endpoint = ("--endpoint", f"{models}/m")
    np.savez(folder / "x.npz", x=np.zeros((3, 4, 2), np.float32), y=np.array([0, 1, 2]))
    data = ("--data", "x.npz")
    result = run(folder, "verify", "ck", "m.onnx", *endpoint, *QUICK, *files, *data)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "PASSED" in result.stdout
    assert "accuracy" in result.stdout
    assert json.loads((folder / "r.json").read_text())["passed"]
    assert f"{models}/m" in (folder / "r.html").read_text()
    assert (folder / "m.onnx").read_bytes() == before, "it is the server that was checked"
    arguments = (str(folder / "ck"), str(folder / "m.onnx"), "--endpoint", f"{models}/wrong")
    failed = CliRunner().invoke(app, ["verify", *arguments, *QUICK])
    assert failed.exit_code == 1, failed.output
    assert "FAILED" in failed.output


def test_what_cannot_be_checked_is_one_message(folder, models):
    nowhere = "http://127.0.0.1:9/v2/models/m"
    result = run(folder, "verify", "ck", "m.onnx", "--endpoint", nowhere, *QUICK)
    assert fails(result, "127.0.0.1:9 cannot be reached")
    with pytest.raises(ServingError, match="letters"):
        check(digits(), folder / "m.onnx", endpoint=f"{models}/letters")
    with pytest.raises(InputError, match="one provider"):
        check(digits(), folder / "m.onnx", endpoint=f"{models}/m", providers=("cpu", "cpu"))
    with pytest.raises(InputError, match="no bundle, which reruns a file"):
        check(digits(), folder / "m.onnx", endpoint=f"{models}/m", bundle=folder / "bundle")


def test_the_servers_limits_and_token(folder, monkeypatch, tmp_path):
    shutil.copy(folder / "m.onnx", tmp_path)
    with running(tmp_path, "--max-time", "10", token="secret") as server:
        endpoint = f"http://{server.http}/v2/models/m"
        with pytest.raises(ServingError, match="has no token"):
            check(digits(), folder / "m.onnx", endpoint=endpoint)
        monkeypatch.setenv("BNLSTM_DEPLOY_TOKEN", "secret")
        with pytest.raises(
            InputError, match=r"refuses.*20 timesteps .* max_time of 10.*larger limits"
        ):
            check(digits(), folder / "m.onnx", endpoint=endpoint)


def test_addresses():
    for url in ("http://a/v2/models/", "http://a/v2/models/m/infer", "127.0.0.1:8080"):
        with pytest.raises(InputError, match="the endpoint is"):
            Endpoint(url, None)
