"""The table of docs/precision.md is what is measured: in few, the same order of errors."""

from pathlib import Path

import pytest
import torch

from bnlstm_deploy.checkpoint import load_checkpoint
from tools import digits
from tools.precision import CHECKPOINT, DTYPES, VARIANTS, measure

PAGE = Path("docs/precision.md").read_text()


@pytest.fixture(scope="module")
def rows():
    test = digits.load().test
    model = load_checkpoint(CHECKPOINT).eval()
    with torch.no_grad():
        return measure(model, torch.from_numpy(test.x[:40]), test.y[:40])


def test_products_alone_lose_least(rows):
    for dtype in DTYPES:
        errors = {row.reduced: row.h_error for row in rows if row.dtype == dtype}
        assert list(errors) == [*VARIANTS, "an exported graph"]
        assert min(errors[name] for name in VARIANTS) == errors["matrix products only"]
        assert errors["an exported graph"] <= 2 * errors["matrix products only"]


def test_the_page_has_the_rows(rows):
    for row in rows:
        assert f"| {row.dtype} | {row.reduced} |" in PAGE.replace("**", "")
