"""The choice of form and folding for a direction."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bnlstm_deploy.errors import ExportError
from bnlstm_deploy.exporting.choose import (
    Choice,
    Request,
    choose,
    summarize,
)
from bnlstm_deploy.exporting.folded_module import FoldedBNLSTM
from bnlstm_deploy.nn import BNLSTM
from tests.models import randomize


def direction(hidden=4, **arguments):
    module = FoldedBNLSTM(randomize(BNLSTM(2, hidden, **{"max_length": 5} | arguments)))
    return module.folded.layers[0][0]


FULL: dict[str, Any] = {}
PLAIN = {"normalize": ()}
SHARED = {"normalize": ("input", "hidden"), "max_length": 1}
INPUT = {"normalize": ("input",)}
CELL = {"normalize": ("cell",)}
HIDDEN = {"normalize": ("input", "hidden")}


@pytest.mark.parametrize(
    ("arguments", "request_", "form", "folding"),
    [
        (FULL, {}, "scan", "factored"),
        (CELL, {}, "scan", "factored"),
        (HIDDEN, {}, "scan", "factored"),
        (PLAIN, {}, "lstm", "factored"),
        (SHARED, {}, "lstm", "factored"),
        (INPUT, {}, "scan", "factored"),
        (INPUT, {"length": 9}, "scan", "factored"),
        (FULL, {"folding": "materialized"}, "scan", "materialized"),
        (PLAIN, {"folding": "materialized"}, "scan", "materialized"),
        (FULL, {"length": 9}, "scan", "factored"),
        (PLAIN, {"length": 9}, "lstm", "factored"),
        (FULL, {"target": "cuda"}, "scan", "factored"),
        (INPUT, {"target": "cuda"}, "lstm", "factored"),
        (FULL, {"target": "cuda", "length": 9}, "unrolled", "materialized"),
        (FULL, {"target": "cuda", "length": 9, "folding": "factored"}, "unrolled", "factored"),
        (CELL, {"target": "cuda", "length": 9}, "unrolled", "factored"),
        (PLAIN, {"target": "cuda", "length": 9}, "lstm", "factored"),
        (FULL, {"form": "scan"}, "scan", "factored"),
        (PLAIN, {"form": "scan", "folding": "materialized"}, "scan", "materialized"),
        (FULL, {"form": "unrolled", "length": 9}, "unrolled", "factored"),
        (PLAIN, {"form": "unrolled", "length": 9, "target": "cuda"}, "unrolled", "factored"),
        (INPUT, {"form": "lstm"}, "lstm", "factored"),
    ],
)
def test_choices(arguments, request_, form, folding):
    choice = choose(direction(**arguments), Request(**request_), "_l0")
    assert (choice.form, choice.folding) == (form, folding)
    assert choice.reason.endswith(".")
    assert choice.reason.count(". ") == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (FULL, "the cell is normalized"),
        (CELL, "the cell is normalized"),
        (HIDDEN, "the hidden path's scale changes over time"),
    ],
)
def test_what_is_no_lstm(arguments, reason):
    with pytest.raises(ExportError, match=f"rnn._l0 cannot .* form lstm: {reason}"):
        choose(direction(**arguments), Request("lstm"), "rnn._l0")
    assert reason in choose(direction(**arguments), Request(), "_l0").reason


def test_the_lstm_operator_of_onnx_runtime_has_no_float64():
    double = direction(**PLAIN).astype(np.float64)
    assert choose(double, Request(), "_l0").form == "scan"
    with pytest.raises(ExportError, match="no LSTM operator in float64"):
        choose(double, Request("lstm"), "_l0")


def test_statistics_that_turn_out_constant_are_an_ordinary_lstm():
    """What counts is the fold, not which normalizations the model has."""
    model = randomize(BNLSTM(2, 4, normalize=("input", "hidden"), max_length=5))
    for norm in (model.input_norm_l0, model.hidden_norm_l0):
        for rows in (norm.running_mean, norm.running_var):
            rows[:] = rows[0]
    assert choose(FoldedBNLSTM(model).folded.layers[0][0], Request(), "_l0").form == "lstm"
    rounded = direction(**FULL)
    neutral = replace(
        rounded,
        hidden_scale=np.ones_like(rounded.hidden_scale),
        cell_scale=np.ones_like(rounded.cell_scale),
        cell_shift=np.zeros_like(rounded.cell_shift),
    )
    assert choose(neutral, Request("lstm"), "_l0").form == "lstm"
    assert "the input's part" in choose(neutral, Request(), "_l0").reason


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"form": "loop"}, "form is 'loop'; pass one of auto, scan, unrolled, lstm"),
        (
            {"form": "lstm-or-scan"},
            "form is 'lstm-or-scan'; pass one of auto, scan, unrolled, lstm",
        ),
        ({"folding": "half"}, "folding is 'half'; pass one of auto, factored, materialized"),
        ({"target": "tpu"}, "target is 'tpu'; pass one of cpu, cuda"),
        ({"form": "unrolled"}, "pass it as length"),
        ({"form": "unrolled", "length": 0}, "length is 0; pass at least 1"),
        ({"form": "scan", "length": 9}, "length is 9, and the form scan takes any number"),
        ({"form": "lstm", "length": 9}, "length is 9, and the form lstm takes any number"),
        ({"form": "lstm", "folding": "materialized"}, "nothing to materialize"),
    ],
)
def test_requests_that_make_no_sense(request_, message):
    with pytest.raises(ExportError, match=message):
        Request(**request_)


def test_reasons_are_told_once_or_by_name():
    one, other = Choice("scan", "factored", "One."), Choice("lstm", "factored", "Other.")
    cpu = Request()
    assert summarize({"_l0": one, "_l1": one}, cpu) == "One."
    assert summarize({"_l0": one, "_l1": other, "_l2": one}, cpu) == "_l0, _l2: One. _l1: Other."
    for dtype, native in (("float32", True), ("float16", True), ("float64", False)):
        found = summarize({"_l0": one}, Request(target="cuda", dtype=dtype))
        assert found == (
            "One. On CUDA the native kernel runs in its place where it can." if native else "One."
        )
