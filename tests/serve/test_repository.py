"""What the arguments of the command mean."""

import pytest

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.serve.repository import Entry, find


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files and folders; all are empty, since nothing here reads them."""
    monkeypatch.chdir(tmp_path)
    for path in (
        *("a.onnx", "b.onnx", "x=y.onnx", "my model.onnx", "models/c.onnx", "models/note.txt"),
        *("models/digits/1/model.onnx", "models/digits/10/model.onnx", "models/digits/9/m.onnx"),
        *("models/digits/config.pbtxt", "empty/digits/v1/m.onnx", "two/d/1/a.onnx"),
        *("two/d/1/b.onnx", "none/d/1/note.txt"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    return tmp_path


def found(*arguments):
    return [(entry.name, entry.version, str(entry.path)) for entry in find(arguments)]


@pytest.mark.usefixtures("folder")
def test_files_have_the_name_of_their_stem_or_a_given_one():
    assert found("b.onnx", "a.onnx") == [("a", "1", "a.onnx"), ("b", "1", "b.onnx")]
    assert found("m-1.2_x=a.onnx") == [("m-1.2_x", "1", "a.onnx")]
    assert found("m=x=y.onnx") == [("m", "1", "x=y.onnx")]
    assert found("m=my model.onnx") == [("m", "1", "my model.onnx")]


@pytest.mark.usefixtures("folder")
def test_folders_have_files_and_versions_in_the_order_of_numbers():
    versions = [
        ("digits", "1", "models/digits/1/model.onnx"),
        ("digits", "9", "models/digits/9/m.onnx"),
        ("digits", "10", "models/digits/10/model.onnx"),
    ]
    assert found("models") == [("c", "1", "models/c.onnx"), *versions]
    assert found("d=models/digits") == [("d", *rest) for _, *rest in versions]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.onnx"], "none.onnx does not exist"),
        (["m=none.onnx"], "none.onnx does not exist"),
        (["m="], "holds|has no VERSION"),
        (["a.onnx", "a=b.onnx"], "a.onnx and b.onnx would both be version 1 of 'a'"),
        (["a.onnx", "./a.onnx"], "both be version 1"),
        (["models", "c=a.onnx"], "both be version 1 of 'c'"),
        (["my model.onnx"], "'my model'; give it a name"),
        (["=a.onnx"], "served as ''"),
        (["a/b=a.onnx"], "served as 'a/b'"),
        (["empty"], "the folder empty has no"),
        (["m=models"], "the folder models has no VERSION"),
        (["two"], "holds 2 files"),
        (["none"], "holds 0 files"),
    ],
)
def test_what_is_not_clear_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        find(arguments)


def test_an_entry_is_a_name_a_version_and_a_path(folder):
    assert find([str(folder / "a.onnx")]) == [Entry("a", "1", folder / "a.onnx")]
