"""What inspect warns about."""

import pytest
import torch

from bnlstm_deploy.folding.health import warnings
from bnlstm_deploy.nn import BNLSTM
from tests.models import randomize


def visited(**arguments):
    model = randomize(BNLSTM(2, 3, **{"max_length": 6, **arguments}))
    for norm in model.modules():
        if hasattr(norm, "num_batches_tracked"):
            norm.num_batches_tracked.fill_(1)
    return model


def test_a_healthy_model_has_no_warning():
    assert warnings(visited()) == []
    assert warnings(visited(max_length=1)) == []


def test_a_variance_of_0_at_step_0_is_right_and_later_is_not():
    model = visited()
    model.hidden_norm_l0.running_var[0] = 0
    assert warnings(model) == []
    model.hidden_norm_l0.running_var[2:4, 5] = 0
    texts = warnings(model)
    assert len(texts) == 2
    assert "hidden_norm_l0: the variance of 1 features is 0 at steps 2 to 3" in texts[0]
    assert "the folded scale reaches" in texts[1]


def test_shared_statistics_have_no_step_0_to_leave_out():
    model = visited(max_length=1)
    model.cell_norm_l0.running_var[0, 1] = 0
    assert "cell_norm_l0: the variance of 1 features is 0 at steps 0" in warnings(model)[0]


def test_unvisited_steps_are_named():
    model = visited(bidirectional=True)
    model.input_norm_l0_reverse.num_batches_tracked[torch.tensor([1, 4, 5])] = 0
    (text,) = warnings(model)
    assert text.startswith("input_norm_l0_reverse: steps 1, 4 to 5 of 6 were never visited")


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ((1, 3, 5, 7), "steps 1, 3, 5, 7 of 12"),
        ((1, 3, 5, 7, 9), "steps 1, 3, 5, 7 and 1 more of 12"),
        ((1, 3, 5, 7, 9, 11), "steps 1, 3, 5, 7 and 2 more of 12"),
    ],
)
def test_of_many_runs_of_steps_four_are_named(steps, words):
    model = visited(max_length=12)
    model.input_norm_l0.num_batches_tracked[list(steps)] = 0
    (text,) = warnings(model)
    assert words in text


def test_a_learned_state_at_a_step_whose_statistics_saw_none():
    model = visited(learn_initial_state=True)
    assert warnings(model) == []
    model.hidden_norm_l0.running_var[0] = 0
    assert "the initial state is learned" in warnings(model)[0]


@pytest.mark.parametrize(("part", "warned"), [(0.9e-3, True), (1.1e-3, False)])
def test_a_variance_has_decayed_below_a_thousandth_of_eps(part, warned):
    model = visited()
    model.cell_norm_l0.running_var[3, 1] = part * model.cell_norm_l0.eps
    texts = [text for text in warnings(model) if "variance of 1 features is 0" in text]
    assert bool(texts) == warned


@pytest.mark.parametrize(("scale", "warned"), [(99.0, False), (101.0, True)])
def test_a_scale_is_huge_above_a_hundred(scale, warned):
    model = visited()
    norm = model.cell_norm_l0
    with torch.no_grad():
        norm.weight[1] = scale * (norm.running_var[3, 1] + norm.eps).sqrt()
        norm.running_var[:, 1] = norm.running_var[3, 1]
    texts = [text for text in warnings(model) if "the folded scale reaches" in text]
    assert bool(texts) == warned
