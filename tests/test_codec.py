"""Plain data as dataclasses: what does not fit is told with its place and value."""

from dataclasses import dataclass

import pytest

from bnlstm_deploy.codec import decode, read_json, to_plain
from bnlstm_deploy.errors import InputError


@dataclass(frozen=True)
class Part:
    size: int
    ratio: float = 1.0


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    name: str = ""


def test_what_fits_is_read():
    assert decode({"parts": [{"size": 2, "ratio": 3}]}, Whole, "it", InputError) == Whole(
        (Part(2, 3.0),)
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "it: Object missing required field `parts`"),
        ({"parts": [{"size": "2"}]}, r"got `str` - at `\$.parts\[0\].size`, which is '2'; correct"),
        ({"parts": [{"size": True}]}, "which is True"),
        ({"parts": [], "nam": ""}, r"it: unknown fields \$.nam;"),
        ({"parts": [{"size": 1}, {"size": 1, "x": 1}]}, r"unknown fields \$.parts\[1\].x;"),
        ([], "Expected `object`, got `array`"),
    ],
)
def test_what_does_not_fit_is_told(content, message):
    with pytest.raises(InputError, match=message):
        decode(content, Whole, "it", InputError)


@pytest.mark.parametrize("text", ["{", "", '{"parts": [], "name": NaN}', None])
def test_files_that_are_no_json(tmp_path, text):
    path = tmp_path / "f.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"f.json cannot be read as JSON"):
        read_json(path, Whole, InputError)


def test_numbers_that_json_lacks_are_text():
    assert to_plain({"a": float("nan"), "b": {"c": (1.5, float("-inf"))}}) == {
        "a": "nan",
        "b": {"c": [1.5, "-inf"]},
    }
