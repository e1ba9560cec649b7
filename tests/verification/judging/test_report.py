"""What a report says of what was measured: it does not contradict itself."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.metadata import Metadata
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.verification import Report, record
from bnlstm_deploy.verification.judging.comparison import Comparison
from bnlstm_deploy.verification.reporting.html import write_html
from tests.models import randomize
from tests.verification.quick import check

WITHIN = Comparison(
    stage="precision",
    case="T=5, N=1",
    time=5,
    value="output",
    error=1e-7,
    unexplained=1e-7,
    own_error=1e-7,
    activation_error=0.0,
    fold_error=1e-7,
    magnitude=1.0,
    provider="cpu",
    kernel="function body",
)
GRANTED = replace(WITHIN, case="T=5, N=7", error=1e-4, unexplained=1e-7, activation_error=5e-5)
FAILED = replace(GRANTED, case="T=5, N=64", unexplained=1e-4)


def report_of(*comparisons, **arguments):
    metadata = Metadata("0" * 64, (), "scan", "factored", "float32")
    return Report(comparisons, metadata, "0" * 64, ratio_limit=4.0, seed=0, **arguments)


def stage(report, name):
    (found,) = (s for s in report.stages if s.name == name)
    return found


def test_what_sensitivity_grants_is_counted_and_explained():
    report = report_of(WITHIN, GRANTED)
    assert report.passed
    assert report.granted == (GRANTED,)
    detail = stage(report, "precision").detail
    assert detail.startswith("1000.00 times the training model's own error")
    assert "1 granted more by sensitivity" in detail
    assert "above 4 where the fold's own rounding, sensitivity or a few ULP explain it" in detail
    assert report.to_dict()["granted"] == 1


@pytest.mark.parametrize(("activations", "eps"), [(None, 2**-23), ("int8", 1 / 127)])
def test_the_algebra_is_granted_what_the_yardstick_shows_to_be_amplified(activations, eps):
    rough = replace(WITHIN, own_error=5e-3)
    metadata = Metadata("0" * 64, (), "scan", "factored", "float32", activations=activations)
    report = Report((rough,), metadata, "0" * 64, ratio_limit=4.0, seed=0)
    algebra = replace(rough, stage="algebra", kernel="")
    amplified = report.budget(algebra) - 1e-10
    assert amplified == pytest.approx(4 * 5e-3 * 2**-52 / eps, rel=1e-3)


def test_a_failure_is_not_granted():
    report = report_of(WITHIN, FAILED)
    assert not report.passed
    assert report.granted == ()
    assert "above 4" not in stage(report, "precision").detail


def test_within_the_limit_nothing_is_explained():
    detail = stage(report_of(WITHIN), "precision").detail
    assert "granted" not in detail
    assert "above" not in detail


def test_a_failed_stage_does_not_say_that_all_is_well():
    spoilt = replace(FAILED, stage="conditions", case="T=5, N=7, padding of NaN")
    detail = stage(report_of(WITHIN, spoilt), "conditions").detail
    assert "1 failed" in detail
    assert "independent" not in detail
    assert "contained" not in detail


def test_the_page_says_it_too(tmp_path):
    write_html(report_of(WITHIN, GRANTED), tmp_path / "r.html")
    page = " ".join((tmp_path / "r.html").read_text().split())
    assert "comparisons over budget; 1 more are granted by sensitivity" in page
    assert "limit 4x, and more where the fold" in page
    assert "x, granted" in page


class Mean(nn.Module):
    """Does more over time than its BNLSTM, so that it has no streaming form."""

    def __init__(self):
        super().__init__()
        self.rnn = BNLSTM(3, 8, max_length=4)

    def forward(self, x):
        return self.rnn(x)[0].mean(0)


@pytest.fixture(scope="module")
def unstreamed(tmp_path_factory):
    model = randomize(Mean())
    path = tmp_path_factory.mktemp("mean") / "m.onnx"
    x = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    export(model, path, (x,))

    def sample(generator, batch, time):
        return [torch.from_numpy(generator.standard_normal((time, batch, 3), "float32"))]

    return check(model, path, sample=sample)


def test_chunks_that_are_left_out_are_said(unstreamed):
    assert unstreamed.passed
    assert unstreamed.not_checked
    assert all("chunks" in words for words in unstreamed.not_checked)
    assert f"{len(unstreamed.not_checked)} not checked" in stage(unstreamed, "precision").detail


def test_it_survives_json(unstreamed):
    content = json.loads(json.dumps(unstreamed.to_dict()))
    assert Report.from_dict(content).not_checked == unstreamed.not_checked
    del content["not_checked"]  # a report of before
    assert Report.from_dict(content).not_checked == ()


def test_a_record_names_the_file_as_it_stays(tmp_path):
    model = randomize(BNLSTM(2, 3, max_length=3))
    path = tmp_path / "m.onnx"
    export(model, path)
    report = record(check(model, path), path)
    assert report.environment["file_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_is_short_to_print_and_a_table_in_a_notebook():
    report = report_of(WITHIN, FAILED)
    assert repr(report).startswith("<Report: failed: precision; 2 comparisons, ratio ")
    assert "<td>precision</td><td>FAILED</td>" in report._repr_html_()


def test_swapped_arguments_are_recognized(tmp_path):
    with pytest.raises(InputError, match="pass the training model first"):
        check(tmp_path / "m.onnx", randomize(BNLSTM(2, 3, max_length=3)))
