"""Files that appear whole or not at all."""

import errno
import os
import stat

import pytest

from bnlstm_deploy.atomic import (
    MARK,
    check_free_folder,
    check_writable,
    replacing,
    replacing_folder,
    scratch,
)
from bnlstm_deploy.errors import InputError


def interrupted(path):
    with replacing(path) as temporary:
        temporary.write_text("half of the sec")
        raise KeyboardInterrupt


def test_success_replaces_and_failure_leaves_everything(tmp_path):
    path = tmp_path / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt):
        interrupted(path)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    (tmp_path / "ordinary").touch()
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("text")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(InputError, match="cannot be written"), replacing(tmp_path / "no" / "file"):
        pass


def test_whether_a_file_may_be_written_is_known_before(tmp_path):
    check_writable(tmp_path / "file")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / "no" / "file")
    with pytest.raises(InputError, match="is a folder"):
        check_writable(tmp_path)


def test_without_force_nothing_is_replaced_that_another_process_made_meanwhile(tmp_path):
    path = tmp_path / "file"

    def first_and_second():
        with replacing(path, force=False) as late:
            late.write_text("late")
            with replacing(path, force=False) as early:
                early.write_text("early")

    with pytest.raises(InputError, match="exists; choose another name"):
        first_and_second()
    assert path.read_text() == "early"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_replaced_that_was_made_at_the_last_moment(tmp_path, monkeypatch):
    path = tmp_path / "file"
    monkeypatch.setattr("bnlstm_deploy.atomic.check_free", lambda path, *, force: None)
    path.write_text("early")
    with (
        pytest.raises(InputError, match="another process has made it"),
        replacing(path, force=False) as late,
    ):
        late.write_text("late")
    assert path.read_text() == "early"


@pytest.mark.parametrize("there", [False, True])
def test_file_systems_without_links(there, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    path = tmp_path / "file"
    if there:
        monkeypatch.setattr("bnlstm_deploy.atomic.check_free", lambda path, *, force: None)
        path.write_text("early")
        with (
            pytest.raises(InputError, match="another process has made it"),
            replacing(path, force=False) as new,
        ):
            new.write_text("late")
    else:
        with replacing(path, force=False) as new:
            new.write_text("early")
    assert path.read_text() == "early"
    assert list(tmp_path.iterdir()) == [path]


def link(path):
    path.symlink_to(path.with_name("target"))
    path.with_name("target").write_text("precious")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "is a device or the like"),
        (link, "is a link, and only files are replaced"),
        (lambda path: path.symlink_to("nowhere"), "is a link"),
        (os.mkdir, "is a folder"),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_only_files_are_replaced(make, message, force, tmp_path):
    path = tmp_path / "file"
    make(path)
    before = {p.name: p.lstat().st_mode for p in tmp_path.iterdir()}
    message = message if force or "folder" in message else "exists; choose another name"
    for check in (lambda: check_writable(path, force=force), lambda: write(path, force=force)):
        with pytest.raises(InputError, match=message):
            check()
    assert {p.name: p.lstat().st_mode for p in tmp_path.iterdir()} == before


def write(path, *, force):
    with replacing(path, force=force) as new:
        new.write_text("new")


def test_what_is_read_is_not_replaced(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_text("precious")
    (tmp_path / "other").hardlink_to(checkpoint / "model.safetensors")
    for path in (checkpoint / "model.safetensors", tmp_path / "other"):
        with pytest.raises(InputError, match="is what this command reads"):
            check_writable(path, force=True, inputs=(None, tmp_path / "no", checkpoint))
    with pytest.raises(InputError, match=r"holds .*, which is read"):
        check_free_folder(tmp_path, force=True, inputs=(checkpoint / "model.safetensors",))


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    path = tmp_path / "file"
    left = tmp_path / f".file{MARK}0123456789abcdef"
    left.mkdir()
    (left / "file").write_text("half of the sec")
    empty = tmp_path / f".file{MARK}empty"  # killed before it wrote anything
    empty.mkdir()
    os.utime(empty, (0, 0))
    new = tmp_path / f".file{MARK}new"  # about to be locked
    new.mkdir()
    other = tmp_path / ".file.backup"
    other.write_text("the user's own")
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            second.write_text("second")
        assert first.read_text() == "first"
    assert {*tmp_path.iterdir()} == {path, other, new}


@pytest.mark.parametrize("kind", [replacing, replacing_folder])
def test_a_full_disk_names_what_was_to_be_written(kind, tmp_path):
    path = tmp_path / "result"
    with pytest.raises(InputError, match=r"result cannot be written \(No space left"), kind(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError), kind(path):  # that is another matter
        (tmp_path / "no").read_text()
    assert not list(tmp_path.iterdir())


def test_a_place_for_what_nobody_keeps(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with scratch() as folder:
        (folder / "file").write_text("text")
        assert folder.parent == tmp_path
    assert not list(tmp_path.iterdir())
