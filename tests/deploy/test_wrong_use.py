"""Wrong use of `deploy triton` and `deploy kserve`: one message, exit status 2, and no file."""

import os
import sys

import onnx
import pytest
from onnx import TensorProto, helper

from bnlstm_deploy.cli.main import main
from bnlstm_deploy.deploy.triton_config import Options
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.native import library_path

TRITON = ("triton", "-o", "repository")
KSERVE = ("kserve", "--storage-uri", "pvc://models", "--image", "image", "-o", "file.yaml")


@pytest.fixture
def folder(exported, tmp_path, monkeypatch):
    """The working folder: exported files, and others that are none."""
    for path in exported.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "My model.onnx").symlink_to(exported / "layers.onnx")
    (tmp_path / "text.onnx").write_text("text")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "plain.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs the command as its process does: status, and standard error."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bnlstm-deploy", "deploy", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr().err

    return run


@pytest.fixture
def fails(folder, run):
    """Return a function that checks one message, exit status 2, and that nothing was written."""

    def fails(*arguments):
        before = sorted(folder.rglob("*"))
        status, message = run(*arguments)
        assert status == 2, message
        lines = message.strip().splitlines()
        assert len(lines) == 1 or lines[0].startswith("Usage:")
        assert sorted(folder.rglob("*")) == before
        return message

    return fails


@pytest.mark.parametrize("command", [TRITON, KSERVE], ids=["triton", "kserve"])
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("no.onnx", "no.onnx does not exist"),
        (".", "not a file"),
        ("text.onnx", "cannot load text.onnx"),
        ("plain.onnx", "not exported by bnlstm-deploy"),
        ("My model.onnx", "pass a name"),
    ],
)
def test_a_file_that_cannot_be_deployed(fails, command, file, message):
    assert message in fails(*command, file)


@pytest.mark.parametrize("command", [TRITON, KSERVE], ids=["triton", "kserve"])
@pytest.mark.parametrize("name", ["", "a/b", "../x"])
def test_a_name_that_cannot_be_one(fails, command, name):
    assert repr(name) in fails(*command, "layers.onnx", "--name", name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-batch", "0"], "max_batch is 0; pass 1 to"),
        (["--max-batch", "2147483648"], "max_batch is 2147483648; pass 1 to 2147483647"),
        (["--max-batch", "x"], "--max-batch"),
        (["--max-wait", "-1"], "max_wait is -1.0 s; pass 0 to"),
        (["--max-wait", "nan"], "max_wait is nan"),
        (["--max-wait", "inf"], "max_wait is inf"),
        (["--sequence-idle", "0"], "sequence_idle is 0.0 s; pass 1e-06 to"),
        (["--max-sequences", "0"], "max_sequences is 0"),
        (["--preferred-batch", "65"], "(65,) must be 1 to 64"),
        (["--preferred-batch", "0"], "(0,) must be 1 to 64"),
        (["--preferred-batch", "4", "--strategy", "direct"], "the strategy direct has none"),
        (["--instances", "0"], "instances is 0"),
        (["--threads", "0"], "threads is 0"),
        (["--strategy", "newest"], "--strategy"),
        (["--backend", "tensorflow"], "--backend"),
        (["-o", "no/repository"], "cannot be written (No such file"),
        (["-o", "text.onnx"], "cannot be written (Not a directory"),
        (["-o", "text.onnx/repository"], "cannot be written (Not a directory"),
        (["--native-library", "lib.so"], "native library is 'lib.so'; pass an absolute path"),
        (["--native-library", ""], "native library is ''; pass an absolute path"),
        (["--native-library", "/lib.so", "--backend", "python"], "for the onnxruntime backend"),
        (["--native-library", "/lib.so", "--no-native"], "is given, and what runs is the function"),
        (["--native-library", "/lib.so", "--instance", "gpu"], "with --target cuda"),
    ],
)
def test_options_of_triton(fails, arguments, message):
    assert message in fails(*TRITON, "layers.onnx", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--storage-uri", ""], "storage URI is ''"),
        (["--storage-uri", "models/digits"], "'models/digits'; pass one with a scheme"),
        (["--image", ""], "image is ''"),
        (["--min-replicas", "2"], "replicas from 2 to 1"),
        (["--gpus", "-1"], "gpus is -1"),
        (["-o", "no/file.yaml"], "no/file.yaml cannot be written"),
        (["-o", "text.onnx"], "text.onnx exists"),
        (["-o", "text.onnx/file.yaml"], "cannot be written"),
    ],
)
def test_options_of_kserve(fails, arguments, message):
    assert message in fails(*KSERVE, "layers.onnx", *arguments)


def test_streams_of_two_directions(fails):
    assert "no sequence batching" in fails(*TRITON, "directions.onnx", "--sequence")


def test_what_must_be_given(fails):
    assert "Missing option '--output'" in fails("triton", "layers.onnx")
    assert "Missing option '--image'" in fails("kserve", "layers.onnx", "--storage-uri", "pvc://m")


def test_a_folder_is_replaced_as_a_whole_and_only_by_force(folder, run):
    assert run(*TRITON, "classifier.onnx", "--name", "m")[0] == 0
    model = folder / "repository" / "m"
    (model / "1" / "stale").touch()
    assert (model / "initial_state").is_dir()
    status, message = run(*TRITON, "layers.onnx", "--name", "m")
    assert status == 2
    assert "repository/m exists; choose another name, or replace a folder by force" in message
    assert (model / "1" / "stale").exists()
    assert run(*TRITON, "layers.onnx", "--name", "m", "--force")[0] == 0
    assert sorted(str(path.relative_to(model)) for path in model.rglob("*")) == [
        "1",
        f"1/{library_path().name}",
        "1/model.onnx",
        "config.pbtxt",
    ]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("errno", [13, 18])
def test_a_repository_that_may_not_be_written_or_is_another_file_system(
    folder, fails, run, monkeypatch, errno
):
    """The user may be root, who may write everywhere, so the system's refusal is planted."""
    assert run(*TRITON, "layers.onnx")[0] == 0

    def refuse(self, target):
        raise OSError(errno, os.strerror(errno), str(self), None, str(target))

    monkeypatch.setattr("pathlib.Path.rename", refuse)
    for arguments in (["--name", "other"], ["--force"]):
        message = fails(*TRITON, "layers.onnx", *arguments)
        assert f"cannot be written ({os.strerror(errno)})" in message


def test_the_repository_may_be_the_working_folder(folder, run, monkeypatch):
    """And what is not finished is beside it, where no server looks."""
    repository = folder / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    seen = []
    monkeypatch.setattr("shutil.copyfile", lambda *_: seen.append([*repository.iterdir()]))
    assert run("triton", "-o", ".", "--backend", "python", "../layers.onnx")[0] == 0
    assert seen == [[], []]  # the file, and the native kernel
    assert [path.name for path in repository.iterdir()] == ["layers"]


@pytest.mark.parametrize("field", ["max_wait", "sequence_idle"])
@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1e-9, 1e300])
def test_times_that_triton_cannot_count(field, seconds):
    with pytest.raises(InputError, match=field):
        Options(**{field: seconds})
