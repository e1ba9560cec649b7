"""What `make tune` runs, without a GPU to measure."""

import json

import pytest

from bnlstm_deploy.native import build
from tests.cuda_stub import counts
from tests.cuda_stub.environment import require_stubs
from tools import cuda_tune
from tools.cuda_kernels import KINDS

require_stubs()


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_run(kind):
    for launches, number in (("step", cuda_tune.TIME + 2), ("sequence", 2)):
        run = cuda_tune.runner(kind, 64, 33, launches)
        counts.reset()
        run()
        assert counts.read().kernels.total() == number


@pytest.mark.parametrize(
    ("faster_up_to", "expected"), [(0, 0), (1, 1), (3, 2), (4, 4), (100, cuda_tune.WAVES[-1])]
)
def test_the_most_waves_up_to_which_one_launch_is_faster(monkeypatch, faster_up_to, expected):
    monkeypatch.setattr(cuda_tune, "least", lambda run: run())
    found = cuda_tune.most_waves(
        lambda launches, waves: (
            lambda: 2.0 if (launches == "step") == (waves <= faster_up_to) else 1.0
        )
    )
    assert found == expected


def test_what_was_tuned_is_built_in(monkeypatch, tmp_path):
    tuned = tmp_path / "tuned.json"
    tuned.write_text(json.dumps({"90": {"float16": {"128": 7}}}))
    monkeypatch.setattr(build, "TUNED", tuned)
    rows = build._embed_kernels(tmp_path).read_text().splitlines()
    of_sequence = [row for row in rows if '"sequence"' in row]
    (row,) = (row for row in of_sequence if "SEQUENCE, FLOAT16, 90, 4, 1, 16, 128," in row)
    assert row.split(", ")[9] == "7"
    others = {row.split(", ")[9] for row in of_sequence} - {"7"}
    assert others == {"1"}
