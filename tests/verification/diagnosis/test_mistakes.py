"""diagnose(): the mistakes that people make are found for what they are."""

import copy
import itertools

import numpy as np
import onnx
import pytest
import torch

from bnlstm_deploy.runtime import Session
from bnlstm_deploy.verification.diagnosis.mistakes import _left
from bnlstm_deploy.verification.diagnosis.narrowing import Minimal
from bnlstm_deploy.verification.measuring.trial import TorchModel
from tests.verification.diagnosis.faults import (
    H,
    S,
    inputs,
    make,
    node_of,
    run_diagnosis,
    with_array,
    with_arrays_of,
)


def set_eps(model):
    for norm in model.norms("_l0"):
        norm.eps = 1e-3


def roll(by):
    def change(model):
        for norm in model.norms("_l0"):
            for rows in (norm.running_mean, norm.running_var):
                source = (torch.arange(S) + by).clamp(0, S - 1)
                rows.copy_(rows.clone()[source])

    return change


def forget(added):
    return lambda model: model.bias_hh_l0[H : 2 * H].add_(added)


MISTAKES = [
    ("statistics of step t + 1 used at step t", roll(1)),
    ("statistics of step t - 1 used at step t", roll(-1)),
    ("eps wrong: 0.001", set_eps),
    ("a forget bias of 1 added", forget(1)),
    ("a forget bias of 1 lost", forget(-1)),
]


@pytest.mark.parametrize(("name", "change"), MISTAKES, ids=[name for name, _ in MISTAKES])
def test_mistakes_of_the_fold(name, change, model, proto, tmp_path):
    altered = copy.deepcopy(model)
    with torch.no_grad():
        change(altered)
    diagnosis = run_diagnosis(model, with_arrays_of(proto, altered), tmp_path)
    best = diagnosis.hypotheses[0]
    assert best.name == name
    assert best.unexplained < 0.01
    assert diagnosis.hypotheses[-1].name.startswith("the file's arrays are not those of the")


@pytest.mark.parametrize("order", list(itertools.permutations("ifgo"))[5::9], ids="".join)
def test_permuted_gates(order, model, proto, tmp_path):
    changed = proto
    for name in ("weight_ih", "weight_hh", "bias", "input_scale", "hidden_scale"):
        axis = 0 if name.startswith("weight") else 1

        def permuted(array, axis=axis):
            gates = dict(zip("ifgo", np.split(array, 4, axis), strict=True))
            return np.concatenate([gates[gate] for gate in order], axis)

        changed = with_array(changed, f"{name}_l0", permuted)
    best = run_diagnosis(model, changed, tmp_path).hypotheses[0]
    assert best.name == f"gates permuted: the file has them in the order {','.join(order)}"


def test_one_layer_among_several(deep, deep_proto, tmp_path):
    altered = copy.deepcopy(deep)
    with torch.no_grad():
        altered.bias_hh_l1_reverse[H : 2 * H] += 1
    diagnosis = run_diagnosis(deep, with_arrays_of(deep_proto, altered), tmp_path)
    assert diagnosis.hypotheses[0].name == "a forget bias of 1 added, in layer 1, reverse direction"
    with torch.no_grad():
        for suffix in ("_l0", "_l1", "_l0_reverse"):
            getattr(altered, f"bias_hh{suffix}")[H : 2 * H] += 1
    diagnosis = run_diagnosis(deep, with_arrays_of(deep_proto, altered), tmp_path)
    assert diagnosis.hypotheses[0].name == "a forget bias of 1 added"
    assert {(o.layer, o.direction) for o in diagnosis.origins} == set(
        itertools.product((0, 1), ("forward", "reverse"))
    )


def test_initial_states_swapped(model, proto, tmp_path):
    swapped = onnx.ModelProto()
    swapped.CopyFrom(proto)
    node = node_of(swapped, "bias_l0")
    node.input[4], node.input[5] = node.input[5], node.input[4]
    diagnosis = run_diagnosis(model, swapped, tmp_path)
    assert [h.name for h in diagnosis.hypotheses] == ["initial h and c swapped"]
    assert diagnosis.origin.intermediate == "initial state"


def test_what_is_none_of_them_is_not_made_one(model, proto, tmp_path):
    altered = copy.deepcopy(model)
    with torch.no_grad():
        altered.norms("_l0").hidden.running_var.mul_(7 / 8)
    diagnosis = run_diagnosis(model, with_arrays_of(proto, altered), tmp_path)
    (only,) = diagnosis.hypotheses
    assert only.name.startswith("the file's arrays are not those of the model's fold")


@pytest.mark.parametrize(("left", "confirmed"), [(0.6, True), (0.9, False)])
def test_half_of_an_error_is_explained_however_loose_the_tolerance(
    model, proto, tmp_path, left, confirmed
):
    onnx.save(proto, tmp_path / "m.onnx")
    graph = Session(tmp_path / "m.onnx", native=False)
    given = inputs(graph)
    right = TorchModel(copy.deepcopy(model), graph, torch.float64).run(given)
    right = {name: value for name, value in right.items() if value.dtype.kind == "f"}
    expected = {name: value - 0.7 for name, value in right.items()}
    actual = {name: value + left for name, value in right.items()}
    case = Minimal(given, expected, actual, None, None)
    found = _left(model, graph, (case, case), dict.fromkeys(right, 1.0))
    assert (found is not None) == confirmed
    if found is not None:
        assert found == pytest.approx((left, left / (left + 0.7)))


def test_a_stale_export(model, proto, tmp_path):
    changed = with_arrays_of(proto, make(seed=1))
    (entry,) = (e for e in changed.metadata_props if e.key == "bnlstm.checkpoint_sha256")
    entry.value = "0" * 64
    diagnosis = run_diagnosis(model, changed, tmp_path)
    assert diagnosis.stale
    assert diagnosis.hypotheses[0].name.startswith("stale export: the file is of another check")
    assert len(diagnosis.hypotheses) == 1
