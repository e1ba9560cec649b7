"""Messages, whatever the values in them."""

import pytest

from bnlstm_deploy.errors import LONG_TEXT, BnlstmError, CheckpointError, InputError


def test_huge_values_are_cut():
    text = str(CheckpointError(f"the key {'x' * 10**6} is unknown; remove it"))
    assert text == f"the key {'x' * 200}... is unknown; remove it"
    assert len(str(InputError("a word " * 10**5))) == LONG_TEXT + 3


def test_ordinary_messages_are_as_they_were():
    text = "x is 3 of shape (1, 2); pass\n    numpy.zeros(2)"
    assert str(InputError(text)) == text
    with pytest.raises(BnlstmError, match="remove it"):
        raise CheckpointError(f"{'y' * 300}; remove it")
