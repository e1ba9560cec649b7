"""Files that appear whole or not at all."""

import stat

import pytest

from bnlstm_deploy.atomic import check_writable, replacing
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
