"""diagnose(): mistakes in the arrays of layers are found for what they are."""

import copy
import itertools

import numpy as np
import pytest
import torch

from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.nn.cell import PATHS
from tests.models import randomize
from tests.verify.diagnosis.faults import (
    D,
    H,
    S,
    make,
    run_diagnosis,
    with_array,
    with_arrays_of,
)


def norms(model, *paths):
    return [getattr(model.norms("_l0"), path) for path in paths or PATHS]


def set_eps(model):
    for norm in norms(model):
        norm.eps = 1e-3


def roll(by):
    def change(model):
        for norm in norms(model):
            for rows in (norm.running_mean, norm.running_var):
                source = (torch.arange(S) + by).clamp(0, S - 1)
                rows.copy_(rows.clone()[source])

    return change


def scale_var(factor):
    def change(model):
        for norm in norms(model):
            norm.running_var *= factor

    return change


def scale_beta(path, factor):
    return lambda model: norms(model, path)[0].bias.mul_(factor)


def no_mean(path):
    return lambda model: norms(model, path)[0].running_mean.zero_()


def no_gamma(path):
    return lambda model: norms(model, path)[0].weight.fill_(1)


def scale_bias(*names, factor):
    return lambda model: [getattr(model, name).mul_(factor) for name in names]


def forget(added):
    return lambda model: model.bias_hh_l0[H : 2 * H].add_(added)


def transpose_hh(model):
    model.weight_hh_l0.copy_(torch.cat([gate.T for gate in model.weight_hh_l0.clone().chunk(4)]))


def no_norm(path):
    def change(model):
        norm = norms(model, path)[0]
        norm.running_mean.copy_(norm.bias.expand(S, -1))  # its shift is 0
        norm.running_var.copy_((norm.weight**2 - norm.eps).expand(S, -1))  # its scale is 1

    return change


BOTH = ("bias_ih_l0", "bias_hh_l0")

MISTAKES = [
    ("statistics of step t + 1 used at step t", roll(1)),
    ("statistics of step t - 1 used at step t", roll(-1)),
    ("eps wrong: 0.001", set_eps),
    ("biased instead of unbiased variance, for batches of 8", scale_var(7 / 8)),
    ("unbiased instead of biased variance, for batches of 16", scale_var(16 / 15)),
    ("beta of the input product's normalization missing", scale_beta("input", 0)),
    ("beta of the hidden product's normalization counted twice", scale_beta("hidden", 2)),
    ("bias missing", scale_bias(*BOTH, factor=0)),
    ("bias counted twice", scale_bias(*BOTH, factor=2)),
    ("mean of the input product's normalization not subtracted", no_mean("input")),
    ("mean of the cell's normalization not subtracted", no_mean("cell")),
    ("gamma of the cell's normalization missing", no_gamma("cell")),
    ("cell affine missing", no_norm("cell")),
    ("normalization of the hidden product missing", no_norm("hidden")),
    ("a forget bias of 1 added", forget(1)),
    ("a forget bias of 1 lost", forget(-1)),
    ("weight_hh transposed, gate by gate", transpose_hh),
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
    assert not best.ambiguous


def test_cell_shift_missing(model, proto, tmp_path):
    changed = with_array(proto, "cell_shift_l0", np.zeros_like)
    diagnosis = run_diagnosis(model, changed, tmp_path)
    assert diagnosis.hypotheses[0].name == "cell shift missing"
    assert diagnosis.origin.intermediate == "affine"


def test_square_input_weights_transposed(model, proto, tmp_path):
    def transposed(array):
        return np.concatenate([block.T for block in np.split(array, 4)])

    changed = with_array(proto, "weight_ih_l0", transposed)
    best = run_diagnosis(model, changed, tmp_path).hypotheses[0]
    assert best.name == "weight_ih transposed, gate by gate"


def longer(model, rows):
    """The same model with statistics past S: those of `rows`, or none for None."""
    other = BNLSTM(D, H, max_length=S + len(rows), beta=PATHS)
    state = other.state_dict() | {
        name: value for name, value in model.state_dict().items() if value.ndim == 1
    }
    state |= {name: v for name, v in model.state_dict().items() if "weight_" in name}
    for path in PATHS:
        prefix = f"{path}_norm_l0."
        norm = norms(model, path)[0]
        none = {"running_mean": norm.bias, "running_var": norm.weight**2 - norm.eps}
        for name, neutral in none.items():
            own = model.state_dict()[prefix + name]
            more = torch.stack([neutral if row is None else own[row] for row in rows])
            state[prefix + name] = torch.cat([own, more])
        state[prefix + "num_batches_tracked"] = torch.ones(S + len(rows), dtype=torch.int64)
    other.load_state_dict(state)
    return other.eval()


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("wrap around", [0, 1, 2, 3, 4, 0, 1, 2, 3]),
        ("use those of step 0", [0] * 9),
        ("are not normalized", [None] * 9),
    ],
)
def test_the_clamp_to_the_last_row(name, rows, model, proto, tmp_path):
    changed = with_arrays_of(proto, longer(model, rows))
    diagnosis = run_diagnosis(model, changed, tmp_path)
    best = diagnosis.hypotheses[0]
    assert best.name == (f"last-row clamp missing: timesteps past the last statistics {name}")
    assert diagnosis.origin.row == S - 1


def test_one_layer_among_several(deep, deep_proto, tmp_path):
    altered = copy.deepcopy(deep)
    with torch.no_grad():
        altered.bias_ih_l1_reverse.zero_()
        altered.bias_hh_l1_reverse.zero_()
    diagnosis = run_diagnosis(deep, with_arrays_of(deep_proto, altered), tmp_path)
    assert diagnosis.hypotheses[0].name == "bias missing, in layer 1, reverse direction"
    with torch.no_grad():
        for name, parameter in altered.named_parameters():
            if name.startswith("bias"):
                parameter.zero_()
    diagnosis = run_diagnosis(deep, with_arrays_of(deep_proto, altered), tmp_path)
    assert diagnosis.hypotheses[0].name == "bias missing, everywhere"
    assert {(o.layer, o.direction) for o in diagnosis.origins} == set(
        itertools.product((0, 1), ("forward", "reverse"))
    )


def test_statistics_of_layers_swapped(deep, deep_proto, tmp_path):
    altered = copy.deepcopy(deep)
    for path in PATHS:
        setattr(altered, f"{path}_norm_l0", getattr(deep, f"{path}_norm_l1"))
        setattr(altered, f"{path}_norm_l1", getattr(deep, f"{path}_norm_l0"))
    best = run_diagnosis(deep, with_arrays_of(deep_proto, altered), tmp_path).hypotheses[0]
    assert best.name == (
        "statistics of layer 0, forward direction and layer 1, forward direction swapped"
    )


def test_a_stale_export(model, proto, tmp_path):
    changed = with_arrays_of(proto, make(seed=1))
    (entry,) = (e for e in changed.metadata_props if e.key == "bnlstm.checkpoint_sha256")
    entry.value = "0" * 64
    diagnosis = run_diagnosis(model, changed, tmp_path)
    assert diagnosis.stale
    assert diagnosis.hypotheses[0].name.startswith("stale export: the file is of another check")
    assert len(diagnosis.hypotheses) == 1


# Hypotheses: mistakes in how the layers are run.


def test_what_inputs_cannot_tell_apart_is_said(proto, tmp_path):
    """With two rows of statistics, shifts with wrap-around are the same either way."""
    model = randomize(BNLSTM(D, H, max_length=2, beta=PATHS))
    altered = copy.deepcopy(model)
    for norm in norms(altered):
        norm.running_mean.copy_(norm.running_mean.flip(0))
        norm.running_var.copy_(norm.running_var.flip(0))
    changed = with_arrays_of(proto, altered)
    diagnosis = run_diagnosis(model, changed, tmp_path, time=4, states=False, lengths=False)
    names = [h.name for h in diagnosis.hypotheses if h.ambiguous]
    assert names == [
        "statistics of step t + 1 used at step t, of step 0 at the last",
        "statistics of step t - 1 used at step t, of the last at step 0",
    ]
