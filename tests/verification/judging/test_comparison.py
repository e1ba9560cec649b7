"""How far outputs are from the truth: of a case, and at each timestep."""

import math

import numpy as np
import pytest

from bnlstm_deploy.verification.judging.comparison import (
    Runs,
    compare,
    curve,
    distance,
    largest,
)

TRUTH = np.array([[1.0, -2.0], [3.0, 0.0], [0.0, 4.0]])
"""(T, K) = (3, 2)."""


def runs(**arrays):
    plain = {"checked": TRUTH, "own": TRUTH, "folded": TRUTH, "truth": TRUTH, "target": TRUTH}
    return Runs(**{**plain, "sensitivity": np.zeros((3, 2)), **arrays})


def moved(*entries):
    array = TRUTH.copy()
    for row, column, by in entries:
        array[row, column] += by
    return array


def test_errors_are_the_largest():
    found = compare(
        "precision",
        "a case",
        3,
        "y",
        runs(
            checked=moved((0, 1, 0.5), (2, 0, -1.5)),
            own=moved((1, 0, -0.25)),
            folded=moved((1, 1, 0.75)),
            sensitivity=np.full((3, 2), 0.01),
        ),
        provider="cpu",
        inputs="huge",
    )
    assert (found.stage, found.case, found.time, found.value) == ("precision", "a case", 3, "y")
    assert (found.provider, found.inputs) == ("cpu", "huge")
    assert (found.error, found.unexplained) == (1.5, 1.5)
    assert (found.own_error, found.fold_error, found.noise) == (0.25, 0.75, 0.75)
    assert (found.activation_error, found.magnitude) == (0.01, 4)
    assert found.relative_l2 == pytest.approx(math.sqrt((0.25 + 2.25) / 30))
    assert found.p99 == np.quantile([0, 0.5, 0, 0, 1.5, 0], 0.99)
    assert found.kind == (3, "y", "huge")


def test_the_file_is_held_to_its_target_and_the_model_to_the_truth():
    target = TRUTH + 1
    found = compare("data", "", 3, "y", runs(target=target, checked=target, own=TRUTH + 0.5))
    assert (found.error, found.own_error) == (0, 0.5)


def test_values_that_are_that_sensitive_are_explained():
    sensitivity = np.zeros((3, 2))
    sensitivity[0, 0], sensitivity[1, 1] = 0.25, 0.24
    checked = moved((0, 0, 1), (1, 1, 1), (2, 0, 0.125))
    found = compare("precision", "", 3, "y", runs(checked=checked, sensitivity=sensitivity))
    assert (found.error, found.unexplained) == (1, 1)
    sensitivity[1, 1] = 0.25
    found = compare("precision", "", 3, "y", runs(checked=checked, sensitivity=sensitivity))
    assert (found.error, found.unexplained) == (1, 0.125)


def test_what_is_not_a_number_is_no_explained_error():
    found = compare("precision", "", 3, "y", runs(checked=moved((1, 0, np.nan))))
    assert math.isnan(found.error)
    assert math.isnan(found.unexplained)


def test_another_shape_is_infinitely_far():
    found = compare("precision", "", 3, "y", runs(checked=TRUTH[:2]))
    assert (found.error, found.unexplained) == (math.inf, math.inf)
    assert distance(TRUTH[:2], TRUTH) == math.inf


def test_of_nothing_and_of_zeros_there_is_no_error():
    empty = np.zeros((0, 2))
    nothing = dict.fromkeys(("checked", "own", "folded", "truth", "target", "sensitivity"), empty)
    found = compare("precision", "", 0, "y", Runs(**nothing))
    assert (found.error, found.magnitude, found.relative_l2, found.p99) == (0, 0, 0, 0)
    zeros = np.zeros((3, 2))
    found = compare("precision", "", 3, "y", runs(truth=zeros, target=zeros, checked=zeros + 1))
    assert (found.error, found.relative_l2) == (1, 0)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_curve_has_each_timestep(axis):
    arrays = {
        "checked": moved((0, 1, 0.5), (2, 0, -1.5), (2, 1, 0.5)),
        "own": moved((1, 0, -0.25)),
        "folded": moved((1, 1, 0.75)),
        "truth": TRUTH,
        "target": TRUTH,
        "sensitivity": np.array([[0.2, 0.2], [0, 0], [0.1, 0.1]]),
    }
    of_axis = {name: array if axis == 0 else array.T for name, array in arrays.items()}
    found = curve(3, "y", Runs(**of_axis), axis, provider="cpu", kernel="native avx2")
    assert (found.time, found.value, found.provider, found.kernel) == (3, "y", "cpu", "native avx2")
    assert found.error == (0.5, 0, 1.5)
    assert found.own_error == (0, 0.25, 0)
    assert found.fold_error == (0, 0.75, 0)
    assert found.activation_error == (0.2, 0, 0.1)
    assert found.unexplained == (0, 0, 1.5)
    norms = [math.sqrt(5), 3, 4]
    errors = [0.5, 0, math.sqrt(1.5**2 + 0.5**2)]
    assert found.relative_l2 == pytest.approx([e / n for e, n in zip(errors, norms, strict=True)])
    assert found.p99 == pytest.approx([0.495, 0, 1.49])


def test_where_the_truth_is_zero_a_curve_is_of_the_errors_themselves():
    zeros = np.zeros((3, 2))
    found = curve(3, "y", runs(truth=zeros, target=zeros), 0, provider="", kernel="")
    assert found.relative_l2 == pytest.approx([math.sqrt(5), 3, 4])


def test_curves_are_merged_at_each_timestep():
    one = curve(3, "y", runs(checked=moved((0, 0, 1), (1, 0, 2))), 0, provider="cpu", kernel="k")
    other = curve(3, "y", runs(checked=moved((0, 0, 2), (2, 0, 1))), 0, provider="cpu", kernel="k")
    merged = one.merged(other)
    assert merged.error == (2, 2, 1)
    assert merged == other.merged(one)
    assert (merged.time, merged.value, merged.provider, merged.kernel) == (3, "y", "cpu", "k")


def test_the_largest_of_all():
    assert largest([]) == largest(np.zeros((0, 3))) == 0
    assert largest(x for x in (1.0, 3.0, 2.0)) == largest(np.array([[1.0, 3.0], [2.0, 0]])) == 3
    assert math.isnan(largest([1.0, math.nan]))
    assert math.isnan(largest(np.array([math.nan, math.inf])))
