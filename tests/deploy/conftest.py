"""Files that the tests here share."""

import pytest

from tests.deploy import models


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A folder with layers.onnx, classifier.onnx and directions.onnx."""
    folder = tmp_path_factory.mktemp("exported")
    models.export_layers(folder / "layers.onnx")
    models.export_classifier(folder / "classifier.onnx")
    models.export_two_directions(folder / "directions.onnx")
    return folder
