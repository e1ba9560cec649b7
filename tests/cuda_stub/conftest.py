"""What the tests here share."""

import pytest


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where exported files are, each written once."""
    return tmp_path_factory.mktemp("files")
