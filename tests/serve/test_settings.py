"""What a server is told beside its models."""

from bnlstm_deploy.serve.settings import Settings, local_names


def test_settings_do_not_print_the_token():
    assert "secret" not in repr(Settings(token="secret"))


def test_names_of_this_machine_alone():
    for host in ("127.0.0.1", "localhost", "::1", "127.1.2.3"):
        assert local_names(host) >= {"localhost", "127.0.0.1", "[::1]", host}
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        assert local_names(host) is None
