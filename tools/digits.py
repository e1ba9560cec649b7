"""Permuted digits: scikit-learn's 8x8 digits, read pixel by pixel in a fixed random order.

The permutation takes neighbouring pixels apart, so that a classifier which reads one pixel a
timestep must remember over many timesteps: permuted MNIST, small enough for a test.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

PERMUTATION_SEED = 0
"""Seed of the order in which the pixels are read, the same for every sequence."""

SPLIT_SEED = 0
"""Seed of the split; no option, so that all figures are measured on the same test set."""

LENGTH = 64
"""T, the pixels of an image."""

CLASSES = 10


class Sequences(NamedTuple):
    """Sequences with their labels."""

    x: npt.NDArray[np.float32]
    """(n, 64, 1), ink from 0 to 1."""
    y: npt.NDArray[np.int64]
    """(n,), the digits, 0 to 9."""


class Digits(NamedTuple):
    """The three parts of the data set; each holds the ten digits in the same proportions."""

    train: Sequences
    """1,200 sequences."""
    validation: Sequences
    """237 sequences, for all choices between settings."""
    test: Sequences
    """360 sequences, for the final figures alone."""


def order() -> npt.NDArray[np.int64]:
    """Return (64,), the pixel that is read at each timestep, counted row by row."""
    # numpy promises to keep the random numbers of RandomState, unlike those of default_rng
    return np.random.RandomState(PERMUTATION_SEED).permutation(LENGTH)


def load() -> Digits:
    """Return the data set, the same at every call; scikit-learn brings the images along."""
    images, labels = load_digits(return_X_y=True)  # (1797, 64) in 0..16 and (1797,)
    x = (images[:, order(), None] / 16).astype(np.float32)
    y = labels.astype(np.int64)
    x, x_test, y, y_test = train_test_split(
        x, y, test_size=360, stratify=y, random_state=SPLIT_SEED
    )
    x_train, x_validation, y_train, y_validation = train_test_split(
        x, y, test_size=237, stratify=y, random_state=SPLIT_SEED
    )
    return Digits(
        train=Sequences(x_train, y_train),
        validation=Sequences(x_validation, y_validation),
        test=Sequences(x_test, y_test),
    )
