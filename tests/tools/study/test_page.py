"""The pages say what the results files say, and the figures are drawn from them."""

import re

import pytest

from tools.study import figures
from tools.study.page import BLOCK, FOLDER, PAGE, refreshed
from tools.study.runner import read
from tools.study.tasks import tasks

PAGES = (PAGE, PAGE.with_name("gradient_flow.md"))
MOST_BYTES = 3_000_000


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_tables_are_those_of_the_results(page):
    text = page.read_text()
    assert BLOCK.search(text)
    assert refreshed(text, FOLDER) == text


def test_results_are_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MOST_BYTES


def test_every_figure_of_a_page_is_drawn_from_results(tmp_path):
    shown = set()
    for page in PAGES:
        found = re.findall(r"\]\(study/([\w-]+\.svg)\)", page.read_text())
        assert found, page
        shown |= set(found)
    for path in FOLDER.glob("*.jsonl"):
        (tmp_path / path.name).write_text(path.read_text())
    drawn = figures.draw_flow(tmp_path)
    for name, task in tasks().items():
        if (tmp_path / f"{name}.jsonl").exists():
            drawn += figures.draw(task, tmp_path)
    assert shown <= {path.name for path in drawn}
    for name in shown:
        assert (FOLDER / name).read_text() == (tmp_path / name).read_text(), name


def test_every_number_in_the_text_is_a_setting_or_measured():
    """Numbers of the prose: those of the tables, of the tasks' sizes, or listed here with why."""
    text = BLOCK.sub("", PAGE.read_text())
    text = re.sub(r"`[^`]*`|\]\([^)]*\)|^    .*$", "", text, flags=re.MULTILINE)
    known = {"95"}  # the interval
    known |= {"1,797", "5,000", "64", "8"}  # the data sets
    known |= {"95.4", "90.2"}  # the paper's
    known |= {"167"}  # 1/6, the variance of the sum of two numbers of 0..1
    known |= {"0.1", "0.3", "1", "0"}  # gammas, and where learning rates end
    for task in tasks().values():
        known |= {f"{value:g}" for value in vars(task.sizes).values()}
    known |= {"3e-3"}
    for path in FOLDER.glob("*.jsonl"):
        assert read(path), path
    numbers = set(re.findall(r"(?<![\w.])\d[\d,.]*(?:e-?\d+)?(?<![.,])(?!\w)", text))
    assert numbers <= known, numbers - known
