"""Where the token comes from."""

import pytest

from bnlstm_deploy.access import TOKEN_VARIABLE, read_token
from bnlstm_deploy.errors import InputError


def test_a_file_is_read_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, "from-environment")
    assert read_token(None) == "from-environment"
    (tmp_path / "token").write_text("from-file\n")
    assert read_token(tmp_path / "token") == "from-file"


@pytest.mark.parametrize("content", [b"", b" \n", b"a\nb", b"\x00", b"\xff", "é".encode()])
def test_what_is_no_token_is_refused_and_never_means_none(tmp_path, content):
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(InputError, match="token"):
        read_token(tmp_path / "token")


def test_a_missing_file_and_an_empty_variable_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be read"):
        read_token(tmp_path / "token")
    monkeypatch.setenv(TOKEN_VARIABLE, "")
    with pytest.raises(InputError, match=TOKEN_VARIABLE):
        read_token(None)
