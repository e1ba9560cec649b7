"""What a model may be called where it is deployed."""

import pytest

from bnlstm_deploy.deploy.names import check_label, check_name
from bnlstm_deploy.errors import InputError


@pytest.mark.parametrize("name", ["m", "9", "Digits-2.1_b", "a" * 200])
def test_names_of_models(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-x", "_x", "a b", "a/b", "a\\b", "a\n", "é", "a:b"]
)
def test_names_that_would_need_quoting_or_leave_the_folder(name):
    with pytest.raises(InputError) as error:
        check_name(name)
    assert repr(name) in str(error.value)
    assert "pass a name of" in str(error.value)


@pytest.mark.parametrize("name", ["d", "digits-2", "a" * 63])
def test_names_of_services(name):
    assert check_label(name) == name


@pytest.mark.parametrize("name", ["a\n", "é", "-a", "a-", "2a", "A", "a" * 64])
def test_names_that_no_service_has(name):
    with pytest.raises(InputError) as error:
        check_label(name)
    assert repr(name) in str(error.value)
    assert "pass a name of" in str(error.value)
