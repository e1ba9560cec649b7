"""The data of the study: where it comes from packages, and what is synthetic."""

import pytest
import torch

from tools.study import data
from tools.study.tasks import tasks


def test_the_adding_problems_target_is_the_sum_of_the_marked_numbers():
    x, y = data.adding(20, 50, torch.Generator().manual_seed(0))
    assert x.shape == (50, 20, 2)
    for sequence, target in zip(x, y, strict=True):
        marked = sequence[sequence[:, 1] == 1, 0]
        assert len(marked) == 2
        torch.testing.assert_close(marked.sum(), target)
        assert sequence[:10, 1].sum() == sequence[10:, 1].sum() == 1


def test_digits_in_order_are_the_rows_of_the_images():
    permuted, ordered = data.small_digits(True), data.small_digits(False)
    assert permuted.train.x.shape == ordered.train.x.shape == (1200, 64, 1)
    assert not torch.equal(permuted.test.x, ordered.test.x)
    image = ordered.test.x[0].view(8, 8)
    assert image[:, 0].sum() == 0  # the margin of the scanner: left columns are empty
    torch.testing.assert_close(permuted.test.x.sort(1)[0], ordered.test.x.sort(1)[0])


def test_mnist_is_split_once():
    parts = data.mnist()
    assert [len(part.y) for part in parts] == [4000, 500, 500]
    assert parts.train.x.shape[1:] == (784, 1)
    assert 0 <= parts.train.x.min() < parts.train.x.max() == 1


@pytest.mark.slow
def test_the_text_is_letters_and_single_spaces():
    text = data.text()
    assert 2_800_000 < len(text) < 3_000_000
    assert set(text.tolist()) == set(range(27))
    assert "  " not in "".join(data.ALPHABET[code] for code in text[:100_000].tolist())


@pytest.mark.slow
@pytest.mark.parametrize("part", ["train", "validation"])
def test_chunks_of_characters_go_on_where_the_last_ones_ended(part):
    task = tasks(quick=True)["characters"]
    batches = (
        task.train(torch.Generator().manual_seed(0)) if part == "train" else task.held_out(part)
    )
    first, second = list(batches)[:2]
    assert (first.step, second.step) == (0, 100)
    assert torch.equal(first.y[:, -1], second.x[:, 0].argmax(1))
    assert torch.equal(first.x[:, 1:].argmax(2), first.y[:, :-1])
