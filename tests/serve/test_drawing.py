import json
from pathlib import Path

import pytest

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.serve.drawing import Drawing, path_of, read_drawing
from bnlstm_deploy.signature import Value

VALID = {
    "kind": "drawing",
    "subject": "letter",
    "size": [2, 3],
    "margin": 0,
    "pen": 1.5,
    "paper": -0.5,
    "ink": 2.5,
    "order": [5, 4, 3, 2, 1, 0],
    "labels": ["a", "b"],
}


def read(folder, content, *, shape=("time", "batch", 1), answer=("batch", 2)):
    model = folder / "letters.onnx"
    text = content if isinstance(content, str) else json.dumps(content)
    path_of(model).write_text(text)
    return read_drawing(model, [Value("x", None, shape)], [Value("logits", None, answer)])


def test_it_stands_beside_the_model():
    assert path_of(Path("folder/letters.v2.onnx")) == Path("folder/letters.v2.page.json")


def test_a_model_without_one(tmp_path):
    assert read_drawing(tmp_path / "letters.onnx", [], []) is None


@pytest.mark.parametrize("features", [1, 2, 3])
def test_a_valid_one(tmp_path, features):
    expected = Drawing("letter", (2, 3), 0, 1.5, -0.5, 2.5, (5, 4, 3, 2, 1, 0), ("a", "b"))
    assert read(tmp_path, VALID, shape=("time", "batch", features)) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "sound"}, "Invalid enum value 'sound'"),
        ({"labels": None}, "missing required field `labels`"),
        ({"color": 1}, r"unknown fields \$\.color"),
        ({"pen": "thick"}, r"Expected `float`, got `str` - at `\$\.pen`, which is 'thick'"),
        ({"pen": 0}, "'pen' is 0 and 'margin' 0; a pen is wider than 0"),
        ({"paper": float("nan")}, "cannot be read as JSON"),
        ({"ink": True}, "`, which is True"),
        ({"margin": 0.3}, "'margin' 0.3 at both sides and 'pen' 1.5 leave no room in 2 pixels"),
        ({"size": [6]}, "Expected `array` of length 2, got 1"),
        ({"size": [-2, -3]}, r"'size' is \[-2, -3\]"),
        ({"size": 6}, "Expected `array`, got `int`"),
        ({"order": [0, 1, 2, 3, 4]}, "'order' has 5 entries; a drawing of 2 x 3 pixels needs each"),
        ({"order": [0, 1, 2, 3, 4, 4]}, "needs each of 0 to 5 once"),
        ({"order": [0, 1, 2, 3, 4, 5.0]}, r"Expected `int`, got `float` - at `\$\.order\[5\]`"),
        ({"labels": [1, 2]}, "Expected `str`, got `int`"),
        ({"labels": ["a"]}, "'labels' are 1; the model's output 'logits' has 2 values"),
        ({"subject": 8}, "subject`, which is 8"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, change, message):
    content = {name: value for name, value in (VALID | change).items() if value is not None}
    with pytest.raises(InputError, match=rf"{message}.*Correct .*letters\.page\.json"):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "as JSON"), ("[]", "Expected `object`"), ("", "as JSON")],
)
def test_files_that_hold_no_object(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "shape", [("time", "batch", 4), ("batch", 1), ("time", "batch", "features")]
)
def test_inputs_that_cannot_be_drawn(tmp_path, shape):
    with pytest.raises(InputError, match="6 pixels need three axes, of which the last divides"):
        read(tmp_path, VALID, shape=shape)
