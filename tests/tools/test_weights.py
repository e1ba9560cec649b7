"""The tables of docs/precision.md are what is measured; the example loses no accuracy by int8."""

import pytest

from bnlstm_deploy.checkpoint import load
from tools import digits
from tools.peers import Size
from tools.weights import (
    CHECKPOINT,
    KINDS,
    LARGEST,
    PAGE,
    PLOT,
    SIZES,
    TIMED,
    accuracy,
    draw,
    filled,
    speed,
    speed_table,
)

MEASURED = ("float32", "int8", "int8, calibrated", "int8, h in int8")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    test = digits.load().test
    folder = tmp_path_factory.mktemp("weights")
    model = load(CHECKPOINT).eval()
    return {row.kind: row for row in accuracy(model, test.x, test.y, folder, MEASURED)}


def test_no_accuracy_is_lost(rows):
    for kind in MEASURED:
        assert abs(rows[kind].correct - rows["float32"].correct) <= 0.003, kind


def test_weights_shrink_and_errors_are_in_order(rows):
    assert rows["int8"].weights_kb < 0.3 * rows["float32"].weights_kb
    means = {kind: row.mean for kind, row in rows.items()}
    assert means["float32"] < 0.01 * means["int8"]
    assert means["int8, calibrated"] < 0.6 * means["int8"] < means["int8, h in int8"]


def test_the_page_has_what_was_measured(rows):
    page = PAGE.read_text()
    for row in rows.values():
        assert f"| {row.kind} | {row.correct:.1%} | {row.changed} |" in page
    assert all(f"| {kind} | " in page for kind in KINDS)
    for kind in TIMED:
        assert len([line for line in page.splitlines() if line.startswith(f"| {kind} |")]) >= 2
    assert all(f" {size} |" in page for size in SIZES)
    assert PLOT.exists()


def test_times_of_all_kinds_and_operators(rows, tmp_path):
    size = Size(2, 3, 4, 5)
    found = speed(size, 0)
    table = speed_table({size: found}, dict.fromkeys(TIMED, 1.0))
    assert f"| MB, {LARGEST} |" in table
    assert table.count("\n") == 1 + len(TIMED) + 2
    assert "| DynamicQuantizeLSTM | " in table
    draw(list(rows.values()), tmp_path / "plot.svg")
    assert all(kind in (tmp_path / "plot.svg").read_text() for kind in MEASURED)


def test_a_page_without_the_place_is_an_error():
    assert filled("a <!-- x -->old<!-- end of x --> b", "x", "new").split() == (
        "a <!-- x --> new <!-- end of x --> b".split()
    )
    with pytest.raises(AssertionError, match="speed"):
        filled("nothing", "speed", "")
