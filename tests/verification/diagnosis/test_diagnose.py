"""What a diagnosis says, in words."""

from dataclasses import replace

import pytest

from bnlstm_deploy.verification.diagnosis.arrays import ArrayDifference
from bnlstm_deploy.verification.diagnosis.diagnose import Diagnosis
from bnlstm_deploy.verification.diagnosis.mistakes import Confirmed

NOTHING = Diagnosis(
    fails=True,
    reproduced=True,
    stream=None,
    time=None,
    origins=(),
    hypotheses=(),
    arrays=(),
    tested=17,
    stale=False,
    fold_error=0.0,
)


def difference(name, note=""):
    return ArrayDifference(name, "rnn", 5, 8, (1, 3), 2, (1, 0), 0.5, 0.25, 0.5, note)


def test_an_array_that_differs_is_told_by_its_first_element():
    assert str(difference("rnn.bias_l0")) == (
        "rnn.bias_l0: 5 of 8 elements differ, in 2 rows; the first at [1, 0] is 0.25 instead of 0.5"
    )
    assert str(difference("rnn.bias_l0", "has shape (3,)")) == "rnn.bias_l0: has shape (3,)"


@pytest.mark.parametrize(
    ("reproduced", "origin"),
    [
        (True, "no single value is off by more than rounding explains"),
        (False, "the debug copy of the graph does not fail: the providers differ"),
    ],
)
def test_what_is_known_without_an_origin(reproduced, origin):
    lines = str(replace(NOTHING, reproduced=reproduced)).splitlines()
    assert lines == [f"origin: {origin}", "none of 17 known mistakes explains it"]


def test_a_graph_that_does_not_fail():
    assert str(replace(NOTHING, fails=False)) == "the graph does not fail on these inputs"


def test_the_first_three_of_each_kind_are_told():
    mistakes = tuple(Confirmed(f"mistake {number}", 0.1, 0.02) for number in range(5))
    arrays = tuple(difference(f"array_{number}") for number in range(5))
    diagnosis = replace(NOTHING, hypotheses=mistakes, arrays=arrays)
    assert str(diagnosis).splitlines()[1:] == [
        *(f"explained by: mistake {number} (leaves 2.0% of the error)" for number in range(3)),
        *(f"array {difference(f'array_{number}')}" for number in range(3)),
    ]
    told = diagnosis.to_dict()
    assert told["summary"] == str(diagnosis)
    assert (len(told["hypotheses"]), len(told["arrays"]), told["origin"]) == (5, 5, None)
    assert told["hypotheses_tested"] == 17
