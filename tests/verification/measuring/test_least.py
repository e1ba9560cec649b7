"""least(): the first number that gives something, and few that are tried."""

import pytest

from bnlstm_deploy.verification.measuring.least import least


@pytest.mark.parametrize("most", range(20))
@pytest.mark.parametrize("first", range(1, 21))
def test_the_least_number_is_found(first, most):
    tried = []

    def attempt(number):
        tried.append(number)
        return f"{number}" if number >= first else None

    found = least(attempt, most)
    assert found == (f"{first}" if first <= most else None)
    assert len(set(tried)) == len(tried) <= 2 * most.bit_length()
    assert set(tried) <= set(range(1, most + 1))
