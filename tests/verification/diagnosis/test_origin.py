"""diagnose(): a fault is found at the value that introduces it."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from bnlstm_deploy.errors import VerificationError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.verification.diagnosis import diagnose
from bnlstm_deploy.verification.diagnosis.origin import Origin, origin_of
from bnlstm_deploy.verification.diagnosis.places import Place
from bnlstm_deploy.verification.diagnosis.recompute import Value
from tests.models import randomize
from tests.verification.diagnosis.faults import (
    D,
    H,
    S,
    T,
    exported,
    inputs,
    make,
    node_of,
    replaced,
    run_diagnosis,
    with_array,
)

# Correct graphs: whatever the form, nothing is wrong.

# arguments of BNLSTM, of export, an array, and the intermediate in which an error in it shows
FORMS = [
    ({}, {"form": "unrolled", "length": T}, "hidden_scale_l0", "hidden product"),
    (
        {"bidirectional": True},
        {"form": "unrolled", "length": T, "folding": "materialized"},
        "hidden_scale_l0_reverse",
        "hidden product",
    ),
    ({"num_layers": 2}, {"folding": "materialized"}, "hidden_scale_l1", "hidden product"),
    ({"normalize": (), "num_layers": 2}, {}, "weight_hh_l1", "lstm operator"),
    ({"normalize": ("input",)}, {"form": "lstm"}, "weight_hh_l0", "lstm operator"),
    (
        {"learn_initial_state": True, "max_length": 3},
        {"merge_tolerance": 0.3, "dtype": torch.float64},
        "cell_shift_l0",
        "affine",
    ),
]


@pytest.mark.parametrize(("arguments", "asked", "array", "intermediate"), FORMS, ids=str)
def test_forms(arguments, asked, array, intermediate, tmp_path):
    """Nothing is wrong of a correct graph; and if something is, it is found, whatever the form."""
    model = make(arguments)
    proto = exported(model, tmp_path, **asked)
    path = tmp_path / "m.onnx"
    diagnosis = run_diagnosis(model, proto, tmp_path)
    assert not diagnosis.fails
    assert (diagnosis.origin, diagnosis.arrays, diagnosis.hypotheses) == (None, (), ())
    assert str(diagnosis) == "the graph does not fail on these inputs"
    # and none where the tolerance is far too tight: no value is off by more than rounding explains
    session = Session(path, native=False)
    names = [value.name for value in (*session.outputs, *session.state_outputs)]
    tight = dict.fromkeys(names, 1e-18)
    diagnosis = diagnose(model, path, inputs(session), run=session.run, tolerance=tight)
    assert diagnosis.fails
    assert diagnosis.reproduced
    assert (diagnosis.origin, diagnosis.arrays, diagnosis.hypotheses) == (None, (), ())
    changed = with_array(proto, array, scaled_at(1, 2))
    diagnosis = run_diagnosis(model, changed, tmp_path)
    assert [d.name for d in diagnosis.arrays] == [array]
    origin = diagnosis.origin
    assert (f"_l{origin.layer}" in array, origin.intermediate) == (True, intermediate)
    assert len(diagnosis.origins) == 1
    assert diagnosis.hypotheses[0].name.startswith("a few elements differ")


# Origins.


def scaled_at(*index):
    def change(array):
        array[index] *= 1.05
        return array

    return change


@pytest.mark.parametrize(
    ("array", "origin"),
    [
        ("hidden_scale_l1_reverse", (1, "reverse", 3, "hidden product", (4,))),
        ("hidden_scale_l0", (0, "forward", 3, "hidden product", (4,))),
        ("input_scale_l0_reverse", (0, "reverse", 3, "input product", (4,))),
        ("bias_l1", (1, "forward", 3, "input product", (4,))),
        ("cell_shift_l0_reverse", (0, "reverse", 3, "affine", (4,))),
        ("cell_scale_l1", (1, "forward", 3, "affine", (4,))),
    ],
)
def test_one_element_of_one_row(array, origin, deep, deep_proto, tmp_path):
    changed = with_array(deep_proto, array, scaled_at(3, 4))
    diagnosis = run_diagnosis(deep, changed, tmp_path)
    found = diagnosis.origin
    assert (found.layer, found.direction, found.step, found.intermediate, found.index) == origin
    assert found.row == 3
    assert len(diagnosis.origins) == 1
    assert found.error > 100 * found.explained
    length = int(diagnosis.minimal.feeds.get("lengths", [diagnosis.time])[0])
    assert found.position == (length - 1 - 3 if origin[1] == "reverse" else 3)
    (difference,) = diagnosis.arrays
    assert (difference.name, difference.elements, difference.rows) == (array, 1, (3,))
    assert (difference.index, difference.num_rows) == ((3, 4), 1)
    assert difference.relative == pytest.approx(0.05, rel=1e-4)
    (hypothesis,) = diagnosis.hypotheses
    assert hypothesis.name.startswith(f"a few elements differ: {array}: 1 of ")
    assert diagnosis.time <= T
    assert json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))["origin"]["step"] == 3


BODIES = [
    ("h_scaled", "Identity", ["h_scaled_unscaled"], "hidden product"),
    ("gates", "Sub", ["h_scaled", "gates_x_t"], "gates"),
    ("kept", "Mul", ["f", "i"], "cell"),
    ("cell", "Sub", ["cell_scaled", "cell_shift_t"], "affine"),
    ("squashed", "Tanh", ["cell_scaled"], "output"),
]


@pytest.mark.parametrize(("output", "op_type", "names", "intermediate"), BODIES)
def test_a_fault_in_the_body(output, op_type, names, intermediate, model, proto, tmp_path):
    changed = replaced(proto, output, op_type, names)
    diagnosis = run_diagnosis(model, changed, tmp_path)
    assert (diagnosis.origin.intermediate, diagnosis.origin.step) == (intermediate, 0)
    assert not diagnosis.arrays
    assert (diagnosis.time, len(diagnosis.minimal.feeds["input"][0])) == (1, 1)


class Stacked(nn.Module):
    """Two BNLSTM with something in between."""

    def __init__(self):
        super().__init__()
        self.lower = BNLSTM(D, H, batch_first=True, max_length=S)
        self.upper = BNLSTM(H, 4, batch_first=True, max_length=S)
        self.between = nn.Linear(H, H)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.upper(torch.tanh(self.between(self.lower(x)[0])))[0])


@pytest.fixture(scope="module")
def stacked():
    return randomize(Stacked())


@pytest.fixture(scope="module")
def stacked_proto(stacked, tmp_path_factory):
    path = tmp_path_factory.mktemp("stacked") / "m.onnx"
    export(stacked, path, (torch.zeros(2, 3, D),))
    return onnx.load(path)


def shifted(proto, name):
    """Add to what the graph computes as `name`, a value or an output of the graph."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    (position,) = (i for i, n in enumerate(changed.graph.node) if name in n.output)
    node = changed.graph.node[position]
    node.output[list(node.output).index(name)] = "before"
    changed.graph.initializer.append(numpy_helper.from_array(np.full(1, 0.01, np.float32), "added"))
    changed.graph.node.insert(position + 1, helper.make_node("Add", ["before", "added"], [name]))
    return changed


def test_several_modules(stacked, stacked_proto, tmp_path):
    changed = with_array(stacked_proto, "upper.bias_l0", scaled_at(2, 1))
    diagnosis = run_diagnosis(stacked, changed, tmp_path)
    (origin,) = diagnosis.origins
    assert (origin.module, origin.row, origin.intermediate) == ("upper", 2, "input product")
    assert str(origin).startswith("layer 0, forward direction of upper, timestep ")


def test_what_is_between_the_layers(stacked, stacked_proto, tmp_path):
    x = node_of(stacked_proto, "upper.bias_l0").input[0]
    diagnosis = run_diagnosis(stacked, shifted(stacked_proto, x), tmp_path)
    (origin,) = diagnosis.origins
    assert (origin.module, origin.intermediate, origin.step) == ("upper", "layer input", None)
    diagnosis = run_diagnosis(stacked, shifted(stacked_proto, "output"), tmp_path)
    (origin,) = diagnosis.origins
    assert (origin.place, origin.layer, origin.intermediate) == ("", None, "output")
    assert diagnosis.hypotheses == ()
    assert "outside the recurrent layers: output[" in str(diagnosis)


def test_a_head_whose_weights_differ(tmp_path):
    model = randomize(BNLSTMModel(BNLSTM(D, H, max_length=S), 4))
    changed = with_array(exported(model, tmp_path), "head.weight", lambda a: a * np.float32(1.1))
    diagnosis = run_diagnosis(model, changed, tmp_path)
    assert [(o.place, o.intermediate) for o in diagnosis.origins] == [("", "output")]
    assert [d.name for d in diagnosis.arrays] == ["head.weight"]
    assert "arrays are not those of the model's fold: head.weight" in diagnosis.hypotheses[0].name


@pytest.mark.parametrize(
    ("output", "kind", "names", "what"),
    [
        ("y", "Identity", ["h_new"], "output past the length"),
        ("Y_h_ragged", "Identity", ["h_last"], "final state"),
    ],
)
def test_masks(output, kind, names, what, model, proto, tmp_path):
    diagnosis = run_diagnosis(model, replaced(proto, output, kind, names), tmp_path)
    assert diagnosis.origin.intermediate == what


def test_a_failure_elsewhere_is_not_made_up(model, proto, tmp_path):
    """Where only the deployed provider errs, its copy on another one shows nothing."""
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    run = Session(path, native=False).run

    def erring(feeds):
        return {n: a + 1 if a.dtype.kind == "f" else a for n, a in run(feeds).items()}

    diagnosis = run_diagnosis(model, proto, tmp_path, run=erring)
    assert diagnosis.fails
    assert not diagnosis.reproduced
    assert diagnosis.origin is None
    assert "the debug copy of the graph does not fail" in str(diagnosis)


def test_another_model_cannot_be_diagnosed(proto, tmp_path):
    with pytest.raises(VerificationError, match="diagnose the file with the model"):
        run_diagnosis(make(num_layers=2), proto, tmp_path)


# Hypotheses: mistakes in the model that was exported.


def test_it_says_where_and_how_far():
    origin = Origin("gates", 2, (3, 1), 0.5, 0.75, 0.25, 1e-7)
    far = "gates[3, 1] is 0.75 instead of 0.5, off by 0.25 where rounding explains 1e-07"
    assert str(origin) == f"outside the recurrent layers: {far}"
    reverse = replace(origin, place="layer 0, reverse direction", step=300, position=500)
    where = "layer 0, reverse direction, timestep 300 of its own (position 500 in the sequence)"
    assert str(reverse) == f"{where}: {far}"
    assert str(replace(reverse, position=300)) == f"layer 0, reverse direction, timestep 300: {far}"


def test_the_element_that_is_furthest_beyond_what_is_explained():
    expected = Value(np.zeros((2, 3)), np.array([[9.0, 9, 9], [0.5, 0.5, 0.5]]))
    actual = np.array([[8.0, 0, -9], [0.5, 0.75, -0.625]])
    (found,) = origin_of("cell", expected, actual)
    assert found == Origin("cell", 1, (1,), 0.0, 0.75, 0.75, 0.5)
    assert not [*origin_of("cell", expected, actual.clip(-0.5, 0.5))]
    actual[1, 0] = np.nan
    (found,) = origin_of("cell", expected, actual)
    assert found.index == (0,)
    # what is not a number in the truth says nothing
    unknown = Value(np.full((2, 3), np.nan), expected.bound)
    assert not [*origin_of("cell", unknown, actual)]
    place = Place("rnn", 1, True, 3)
    (found,) = origin_of("cell", expected, np.zeros((2, 4)), place)
    assert (found.error, found.explained, found.index) == (np.inf, 0, ())
    assert (found.module, found.layer, found.direction) == ("rnn", 1, "reverse")
    assert found.place == "layer 1, reverse direction of rnn"
