"""write_html(): one page with everything in it, whatever is in the report."""

import json
import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from bnlstm_deploy.errors import InputError, MissingExtraError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime.kernel import instruction_sets
from bnlstm_deploy.verification import Comparison, Curve, Report, verify
from bnlstm_deploy.verification.judging.comparison import Scales
from bnlstm_deploy.verification.judging.cost import Cost
from bnlstm_deploy.verification.judging.structure import Finding
from bnlstm_deploy.verification.measuring.data import Agreement
from bnlstm_deploy.verification.measuring.search import WorstInput
from bnlstm_deploy.verification.reporting.html import write_html
from tests.models import randomize

VOID = {"meta", "br", "hr", "img", "link", "input"}
NAN = math.nan


class Page(HTMLParser):
    """Reads a page, and fails where its tags are not balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.attributes = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    path = tmp_path_factory.mktemp("html") / "tiny.onnx"
    model = randomize(BNLSTM(2, 3, max_length=1))
    export(model, path)
    return verify(model, path, isolated=False, search_seconds=0.1)


@pytest.fixture
def failed(measured):
    """A report by hand: two providers, one of them wrong, and all that a report may hold."""
    times = (5, 1000)
    curves = [by_hand(p, t, v) for p in ("cpu", "cuda") for t in times for v in ("output", "y$_1^")]
    comparisons = [
        Comparison("precision", f"T={c.time}", c.time, c.value, error, error, 1e-7, 4e-7, 1e-7, 1.0)
        for c in curves
        for error in [2e-7 if c.provider == "cpu" else NAN]
    ]
    comparisons = [
        replace(c, provider=curve.provider) for c, curve in zip(comparisons, curves, strict=True)
    ]
    return replace(
        measured,
        comparisons=(*comparisons, replace(comparisons[0], error=0.25, unexplained=0.25)),
        curves=tuple(curves),
        scales=(
            Scales("rnn_l0", (1.0,) * 1000, (300.0, *(2.0,) * 999), (0.0,) * 1000),
            Scales("rnn_l0_reverse", (math.inf, NAN), (0.0, 0.0), (1.0, 1.0)),
            Scales("漢字", (1.0,), (1.0,), (1.0,)),
        ),
        structure=(Finding("types", False, "float16 <b>instead</b> of float32"),),
        crashes=("cuda, T=5: the process ended by signal 11",),
        agreements=(Agreement(10, 9, 10, 8, 9, provider="cpu"), Agreement(10, 10, provider="cuda")),
        worst=WorstInput("output", NAN, 1e-7, 3, "input", ((1.0, NAN, -1.0, 2.0, 0.5),) * 900),
        metadata=replace(measured.metadata, merge_tolerance=1e-3),
        merge_error=2e-4,
        costs=(
            Cost("normal", 3, "output", (1e-4, 0.0, 2e-4), (1e-5, 0.0, 2e-5), 12),
            Cost("normal", 5, "output", (1e-4,) * 5, (1e-5,) * 5, 12),
            Cost("data", 2, "output", (1e-3, 0.0), (1e-5, 0.0), 12),
            Cost("normal", 3, "classes", (1e-4,), (1e-5,), 12),
        ),
        cost_limit=5e-4,
        environment={"file": "<script>alert(1)</script>.onnx", "date": "today"},
        diagnosis={
            "summary": "in short",
            "origin": {"text": "rnn & co, timestep 3: gates[1] is 2 instead of 1"},
            "other_origins": [{"text": "layer 1: affine"}],
            "hypotheses": [{"text": "permuted <gates>"}, {"text": "another eps"}],
            "hypotheses_tested": 146,
            "arrays": [{"text": "bias_l0: 3 of 8 elements differ"}],
        },
    )


def by_hand(provider, time, value):
    noise = tuple(1e-7 * (1 + step % 7) for step in range(time))
    wrong = tuple(NAN if step == 2 else math.inf if step == 3 else 0.1 for step in range(time))
    error = noise if provider == "cpu" else wrong
    none = (0.0,) * time
    return Curve(time, value, error, noise, noise, none, error, error, error, provider=provider)


def page(report, tmp_path):
    path = tmp_path / "report.html"
    write_html(report, path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    text = path.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    assert not re.search("https?://", text)
    parsed = Page(text)
    assert "script" not in parsed.tags
    outside = [v for k, v in parsed.attributes if k in ("src", "href", "xlink:href")]
    assert all(value.startswith(("#", "data:")) for value in outside)
    ids = [value for key, value in parsed.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    for stage in report.stages:
        assert f"{stage.name} {'PASSED' if stage.passed else 'FAILED'} " in parsed.text
    for name in {c.value for c in report.precision}:
        assert name in parsed.text
    return text, parsed


def test_a_report_of_a_check(measured, tmp_path):
    text, parsed = page(measured, tmp_path)
    assert measured.passed
    assert "FAILED" not in text
    assert "<title>PASSED: tiny.onnx</title>" in text
    assert measured.checkpoint_sha256 in text
    assert f"{measured.ratio:.2f}x" in text
    assert f"torch {torch.__version__}" in text
    assert parsed.text.count("file on cpu (function body): largest") == 1
    for instruction_set in instruction_sets():
        assert parsed.text.count(f"file on cpu (native {instruction_set}): largest") == 1
    assert parsed.tags.count("svg") == 4  # the longest T, the others, scales, the worst stream
    assert all(f"T = {time}" in parsed.text for time in (1, 2, 4))
    assert write_again(measured, tmp_path) == text


def test_a_report_of_a_failure(failed, tmp_path):
    text, parsed = page(failed, tmp_path)
    assert not failed.passed
    assert "<title>FAILED: &lt;script&gt;alert(1)&lt;/script&gt;.onnx</title>" in text
    assert parsed.tags.count("svg") == 7  # two of each output, costs, scales, the worst stream
    # what is not a number is worst of all, then what is over budget, then the rest
    table = parsed.text[parsed.text.index("Failures, and the") :]
    assert table.index("nan") < table.index("2.5e-1") < table.index("2.0e-7 1.4e-6")
    assert "Each point stands for 4 timesteps" in parsed.text
    assert parsed.text.count("First over budget at timestep 0: cuda") == 2
    assert "9 of 10 answers agree, accuracy 80.00 % against 90.00 % (-10.00)" in parsed.text
    assert "Crashed: cuda, T=5: the process ended by signal 11" in parsed.text
    assert "moves outputs on purpose: by up to 2.0e-4" in parsed.text
    assert "float16 <b>instead</b> of float32" in parsed.text
    for found in (
        "comes from rnn & co, timestep 3: gates[1] is 2 instead of 1",
        "layer 1: affine",
        "of 146 known mistakes permuted <gates> another eps",
        "bias_l0: 3 of 8 elements differ",
    ):
        assert found in parsed.text
    assert write_again(failed, tmp_path) == text


def write_again(report, tmp_path):
    """Return the page of a report that has been in a file."""
    saved = json.dumps(report.to_dict(), allow_nan=False)
    path = tmp_path / "again.html"
    write_html(Report.from_dict(json.loads(saved)), path)
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("error", [0.0, NAN, 1e-320, 1e300])
def test_any_error_can_be_drawn(error, measured, tmp_path):
    row = Comparison(
        "precision", "T=2", 2, "output", *(error,) * 5, 0.0, error, error, provider="cpu"
    )
    curve = Curve(2, "output", *((error, 0.0),) * 7, provider="cpu")
    scales = Scales("l0", (error,), (error,), (error,))
    worst = WorstInput("output", error, error, 1, "tokens", ((error,), (3.0,)))
    report = replace(
        measured, comparisons=(row,), curves=(curve,), scales=(scales,), worst=worst, ratio_limit=4
    )
    _, parsed = page(report, tmp_path)
    assert parsed.tags.count("svg") == 3


def test_an_empty_report(measured, tmp_path):
    nothing = Curve(0, "output", (), (), (), (), (), (), (), provider="cpu")
    report = Report((), measured.metadata, "0" * 64, 4.0, 0, curves=(nothing,))
    _, parsed = page(report, tmp_path)
    assert "svg" not in parsed.tags
    report = replace(report, diagnosis={"summary": "the diagnosis failed: no memory"})
    _, parsed = page(report, tmp_path)
    assert "the diagnosis failed: no memory" in parsed.text
    empty = {"hypotheses": [], "hypotheses_tested": 7, "origin": None, "arrays": []}
    empty |= {"other_origins": []}
    _, parsed = page(replace(report, diagnosis=empty), tmp_path)
    assert "of 7 known mistakes None." in parsed.text


def test_a_name_that_is_not_unicode(measured, tmp_path):
    report = replace(measured, curves=(), environment={"file": "caf\udce9.onnx"})
    text, _ = page(report, tmp_path)
    assert r"caf\udce9.onnx" in text


def test_a_folder_that_is_not_there(measured, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_html(replace(measured, curves=(), scales=()), tmp_path / "missing" / "report.html")


def test_without_matplotlib(monkeypatch):
    for module in ("verification.reporting.plots", "pages.svg"):
        monkeypatch.delitem(sys.modules, f"bnlstm_deploy.{module}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'bnlstm-deploy\[report\]'"):
        __import__("bnlstm_deploy.verification.reporting.plots")
