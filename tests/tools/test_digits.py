import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tools.digits import CLASSES, LENGTH, PERMUTATION_SEED, load

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data():
    return load()


@pytest.mark.parametrize(("name", "size"), [("train", 1200), ("validation", 237), ("test", 360)])
def test_shapes_types_and_ranges(data, name, size):
    x, y = getattr(data, name)
    assert x.shape == (size, LENGTH, 1)
    assert x.dtype == np.float32
    assert (x.min(), x.max()) == (0, 1)
    assert y.shape == (size,)
    assert y.dtype == np.int64
    assert set(y) == set(range(CLASSES))


def test_split_is_stratified(data):
    share = np.bincount(load_digits().target) / 1797
    for part in data:
        counts = np.bincount(part.y, minlength=CLASSES)
        assert np.abs(counts - share * len(part.y)).max() < 1


def test_parts_are_disjoint_and_complete(data):
    # no two of the images are equal, so that the rows tell them apart
    order = np.random.RandomState(PERMUTATION_SEED).permutation(LENGTH)
    images, labels = load_digits(return_X_y=True)
    expected = {(label, *row) for row, label in zip(images[:, order], labels, strict=True)}
    assert len(expected) == 1797
    found = [
        (label, *row)
        for part in data
        for row, label in zip(part.x[:, :, 0] * 16, part.y, strict=True)
    ]
    assert len(found) == 1797
    assert set(found) == expected


def test_pixels_are_in_random_order(data):
    # neighbours in an image resemble each other, neighbours in a sequence do not
    x = data.train.x[:, :, 0]
    images = load_digits().data
    assert np.abs(np.diff(x, axis=1)).mean() > 1.3 * np.abs(np.diff(images / 16, axis=1)).mean()


def test_same_at_every_call(data):
    for part, again in zip(data, load(), strict=True):
        np.testing.assert_array_equal(part.x, again.x)
        np.testing.assert_array_equal(part.y, again.y)


def test_order_and_split_are_frozen(data):
    # another digest means that figures measured before are not comparable any more
    digests = [hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()[:16] for x, y in data]
    assert digests == ["8cfb26d560141d3f", "146976a73f6bd19e", "89ad3ae22fbe84c4"]


def test_needs_no_torch():
    code = "import sys, tools.digits; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
