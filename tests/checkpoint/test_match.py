"""Keys that are not quite those of a layout."""

import pytest
import torch

from bnlstm_deploy.checkpoint.layout import Layout
from bnlstm_deploy.checkpoint.loading import recognize
from bnlstm_deploy.checkpoint.parse import find_layout, parse_layout
from bnlstm_deploy.errors import LayoutError
from tests.checkpoint.test_read import checkpoint


@pytest.mark.parametrize("kind", ["mean", "var"])
@pytest.mark.parametrize("norm", ["ih", "hh", "c"])
def test_a_last_step_that_one_path_alone_lacks_is_missing(norm, kind):
    tensors = checkpoint(steps=8)
    del tensors[f"cell_0.bn_{norm}.running_{kind}_7"]
    with pytest.raises(LayoutError, match=f"missing: cell_0.bn_{norm}.running_{kind}_7"):
        recognize(tensors)


@pytest.mark.parametrize("norm", ["ih", "hh", "c"])
def test_a_last_step_that_one_path_lacks_altogether_is_missing(norm):
    tensors = checkpoint(steps=8)
    names = [f"cell_0.bn_{norm}.running_{kind}_7" for kind in ("mean", "var")]
    for name in names:
        del tensors[name]
    with pytest.raises(LayoutError, match=f"missing: {', '.join(names)}"):
        recognize(tensors)


@pytest.mark.parametrize(
    ("key", "missing"),
    [
        ("cell_0.bn_ih.running_mean_999999999", "running_mean_3"),
        ("cell_0.bn_ih.running_mean_999999999999999", "running_mean_999999999999999"),
        ("cell_999999999.weight_hh", "cell_1.weight_hh"),
        ("cell_0.bn_ih.running_mean_٣", "left over: cell_0.bn_ih.running_mean_٣"),
        ("cell_0.bn_ih.running_mean_" + 5000 * "1", "left over"),
    ],
)
def test_numbers_in_keys_cost_nothing(key, missing):
    with pytest.raises(LayoutError, match=missing) as caught:
        recognize(checkpoint() | {key: torch.zeros(16)})
    assert len(str(caught.value)) < 3000


def test_alternatives_that_are_both_there():
    layout = parse_layout(
        """title = "a list of gates, by mistake"
[weights]
input = ["W_xi", "W_xf", "W_xg", "W_xo"]
hidden = "W_h"
gates = "ifgo"
""",
        "mine",
        "mine.toml",
    )
    tensors = {f"W_x{gate}": torch.zeros(3, 4) for gate in "ifgo"} | {"W_h": torch.zeros(4, 16)}
    with pytest.raises(LayoutError, match=r"both there: W_xf, W_xg, W_xo \(an array a gate is one"):
        recognize(tensors, layout)


def test_the_nearest_layouts_are_the_nearest():
    tensors = checkpoint()
    tensors["cell_0.bn_ih.scale"] = tensors.pop("cell_0.bn_ih.weight")
    with pytest.raises(LayoutError) as caught:
        recognize(tensors)
    lines = str(caught.value).split("Nearest:\n  ")[1].splitlines()
    assert lines[0].startswith("jihunchoi")


def test_a_missing_gate_is_named():
    layout = find_layout_with_gates()
    tensors = {f"W_x{gate}": torch.zeros(3, 4) for gate in "ifco"}
    tensors |= {f"W_h{gate}": torch.zeros(4, 4) for gate in "ifo"}
    with pytest.raises(LayoutError, match="missing: W_hc"):
        recognize(tensors, layout)


def find_layout_with_gates() -> Layout:
    assert find_layout("jihunchoi").weights.names == tuple("fiog")
    return parse_layout(
        """title = "an array a gate"
[weights]
input = "W_x{gate}"
hidden = "W_h{gate}"
gates = "ifco"
orientation = "in_out"
""",
        "mine",
        "mine.toml",
    )
