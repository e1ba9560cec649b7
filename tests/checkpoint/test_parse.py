"""Layouts as TOML."""

import pytest

from bnlstm_deploy.checkpoint import find_layout, shipped_layouts
from bnlstm_deploy.checkpoint.parse import layout_text, parse_layout
from bnlstm_deploy.errors import LayoutError

MINIMAL = """
title = "Mine"
[weights]
input = "w_x"
hidden = ["w_h", "W_h"]
gates = "gifo"
[normalization]
mean = "{norm}.mean"
eps = 1
[normalization.hidden]
norm = "h"
std = "h.std"
[normalization.cell]
norm = "c"
var = "c.var"
eps = 1e-4
"""


def test_defaults_and_tables_for_all_three_normalizations():
    layout = parse_layout(MINIMAL, "mine", "mine.toml")
    assert layout.weights.input == ("w_x",)
    assert layout.weights.hidden == ("w_h", "W_h")
    assert layout.weights.orientation is None
    assert list(layout.normalization) == ["hidden", "cell"]
    hidden, cell = layout.normalization.values()
    assert (hidden.mean, hidden.std, hidden.var, hidden.eps) == (
        ("{norm}.mean",),
        ("h.std",),
        (),
        1,
    )
    assert (cell.std, cell.eps) == ((), 1e-4)
    assert layout.bias.keys == ()
    assert layout.state.h == ()


@pytest.mark.parametrize("name", shipped_layouts())
def test_shown_layouts_read_back_as_themselves(name):
    layout = find_layout(name)
    assert parse_layout(layout_text(name), name, name) == layout
    for alias in layout.aliases:
        assert find_layout(alias) == layout


def test_names_and_aliases_are_unique():
    layouts = shipped_layouts().values()
    names = [name for layout in layouts for name in (layout.name, *layout.aliases)]
    assert len(names) == len(set(names))


def test_a_layout_of_ones_own(tmp_path):
    (tmp_path / "mine.toml").write_text(MINIMAL)
    assert find_layout(tmp_path / "mine.toml").name == "mine"
    with pytest.raises(LayoutError, match=r"none.toml cannot be read"):
        find_layout(tmp_path / "none.toml")
    with pytest.raises(LayoutError, match="no layout 'nobody'; the known ones are"):
        find_layout("nobody")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[weights]", "[weights", "not valid TOML"),
        ('title = "Mine"', "", "missing required field `title`"),
        ('title = "Mine"', 'title = "Mine"\nname = "x"', "called after its file"),
        ('title = "Mine"', 'title = "Mine"\ncolour = 1', r"unknown fields \$\.colour"),
        ("gates", "gate_order", r"missing required field `gates` - at `\$\.weights`"),
        ('"gifo"', '"gifo"\ngate_order = "x"', r"unknown fields \$\.weights\.gate_order"),
        ('"gifo"', '"gifoo"', "weights.gates is 'gifoo'"),
        ('"gifo"', "4", r"Expected `str`, got `int` - at `\$\.weights\.gates`"),
        (
            '"gifo"',
            '"gifo"\norientation = "up"',
            r"Invalid enum value 'up' - at `\$\.weights\.orientation`",
        ),
        ('"w_x"', '"w_{unit}"', "'w_{unit}' has a placeholder"),
        ("eps = 1\n", "eps = -1\n", "eps is -1; it must be from 0 to 1"),
        ("eps = 1\n", "eps = true\n", "Expected `float`, got `bool`"),
        ('std = "h.std"', "", "normalization.hidden needs mean, and either var or std"),
        ('std = "h.std"', 'std = "a"\nvar = "b"', "either var or std"),
        ("[normalization.cell]", "[normalization.output]", "Invalid enum value 'output'"),
        ('var = "c.var"', 'var = "c.var"\nfirst_step = false', "for the hidden path only"),
        ('title = "Mine"', 'title = "Mine"\nrefuse.magic = true', r"\[refuse\] has \['magic'\]"),
        ('title = "Mine"', 'title = "Mine"\nstate.h = "h0"', r"\[state\] needs h and c"),
        ('title = "Mine"', 'title = "Mine"\ndirections = ["a", "b", "c"]', "directions is"),
        ('title = "Mine"', 'title = "Mine"\nweights = 3', "TOML"),
        (
            'title = "Mine"',
            'title = "Mine"\nforward.arguments = { x = "sequence" }',
            r"forward.arguments has \['sequence'\]",
        ),
    ],
)
def test_a_mistake_is_one_clear_error(old, new, message):
    assert old in MINIMAL
    with pytest.raises(LayoutError, match=message) as caught:
        parse_layout(MINIMAL.replace(old, new, 1), "mine", "mine.toml")
    assert "mine.toml" in str(caught.value)
