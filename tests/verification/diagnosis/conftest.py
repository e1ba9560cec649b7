"""Models and their correct exports."""

import pytest

from tests.verification.diagnosis.faults import exported, make


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module")
def proto(model, tmp_path_factory):
    return exported(model, tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def deep():
    """Two layers, two directions."""
    return make(num_layers=2, bidirectional=True)


@pytest.fixture(scope="module")
def deep_proto(deep, tmp_path_factory):
    return exported(deep, tmp_path_factory.mktemp("deep"))
