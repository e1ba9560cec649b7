"""Layouts: what the keys and arrays of one family of checkpoints mean, declared in TOML.

Key names do not determine the meaning: the same names occur with different gate orders, weight
orientations and eps. So all of that is written down, in one file a family; docs/layouts.md explains
every field.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bnlstm_deploy.normalizations import NormPath

PLACEHOLDERS = ("layer", "direction", "step", "norm", "gate")

NORM_PATTERNS = ("mean", "var", "std", "gamma", "beta", "count")
"""The fields of a normalization that are patterns of keys."""

GATES = "ifgo"
"""Letters of the gates, in the order of torch: input, forget, cell, output."""

CELL_LETTERS = "acjuz"
"""Other letters for g, the cell's candidate."""

REFUSED = {
    "batch_statistics": "it normalizes with the statistics of the batch at test time, so that a "
    "stream's output depends on the others; there is no affine map to fold",
    "joint_normalization": "it normalizes the sum W_x x + W_h h at once, and the training model "
    "here, which verifies and recalibrates, normalizes the two products apart",
    "normalized_cell_carried": "it carries the normalized cell on to the next timestep, so the "
    "cell's normalization is no affine map before the output's tanh",
    "peepholes": "it has peephole connections from the cell to the gates, which BN-LSTMs of this "
    "package do not have",
}
"""What a layout can say of a model that cannot be converted, and the reason given."""

Keys = tuple[str, ...]
"""Alternative patterns of one key; empty if there is none. A last ? says that it may be missing."""


@dataclass(frozen=True)
class Weights:
    """The table [weights]."""

    input: Keys
    hidden: Keys
    gates: str
    """Their order, in the letters of `GATES`."""
    gate_names: tuple[str, ...] = ()
    """What {gate} stands for, in that order; the letters as they were written by default."""
    orientation: Literal["in_out", "out_in"] | None = None
    """(D, 4H), as in x @ W; or (4H, D), as in torch.nn.LSTM. None: the hidden weight tells."""
    interleaved: bool = False
    """Whether the four gates of a unit lie together, instead of the units of a gate."""

    @property
    def names(self) -> tuple[str, ...]:
        """What {gate} stands for, in the order of `gates`."""
        return self.gate_names or tuple(self.gates)


@dataclass(frozen=True)
class Bias:
    """The table [bias]."""

    keys: Keys = ()
    """All are added up; these are no alternatives."""
    hidden: Keys = ()
    """Likewise, those of the hidden product W_h h + b, where it has its own."""
    inside: tuple[Literal["input", "hidden"], ...] = ()
    """`input`: BN(W_x x + b), of `keys`. `hidden`: BN(W_h h + b), of `hidden`. Others are added
    after the normalizations."""
    forget: float = 0.0
    """Added to the forget gate at run time."""


@dataclass(frozen=True)
class Normalization:
    """The table [normalization.input], [normalization.hidden] or [normalization.cell]."""

    norm: str = ""
    """What {norm} stands for in the patterns."""
    mean: Keys = ()
    var: Keys = ()
    std: Keys = ()
    """Standard deviations, in place of `var`."""
    gamma: Keys = ()
    beta: Keys = ()
    count: Keys = ()
    """Minibatches seen, as in torch's num_batches_tracked."""
    eps: float = 1e-5
    """Added to the variance at test time; 0 where it is already inside."""
    applied: bool = True
    """False: stored, and never used."""
    optional: bool = False
    """Whether a checkpoint may lack it."""
    first_step: bool = True
    """False: at step 0 the whole path contributes 0."""


@dataclass(frozen=True)
class InitialState:
    """The table [state]: where streams start from, if not from 0."""

    h: Keys = ()
    c: Keys = ()
    axes: tuple[Literal["row", "batch", "hidden"], ...] = ("row", "batch", "hidden")
    """Meaning of the axes; rows are layers * directions. All streams of a batch must be equal."""


@dataclass(frozen=True)
class Forward:
    """The table [forward]: how the source's module is called, for `replace`."""

    arguments: Mapping[str, str] = field(default_factory=dict)
    """Its parameters in order, and ours: input, state or lengths."""
    batch_first: str | bool = False
    """Whether the input is (N, T, D), or its attribute that says so."""
    returns: Literal["output, (h, c)", "output, h, c", "output"] = "output, (h, c)"
    output: Literal["as_input", "time_major"] = "as_input"
    padding: Literal["zero", "hold"] = "zero"
    """The output past a stream's length: 0, or the last valid one repeated."""


@dataclass(frozen=True)
class Layout:
    """What the keys and arrays of one family of checkpoints mean; see docs/layouts.md."""

    name: str
    """The file's stem."""
    title: str
    weights: Weights
    url: str = ""
    aliases: tuple[str, ...] = ()
    notes: str = ""
    bias: Bias = Bias()
    normalization: Mapping[NormPath, Normalization] = field(default_factory=dict)
    state: InitialState = InitialState()
    directions: tuple[str, ...] = ("",)
    """What {direction} stands for, forward first."""
    first_layer: int = 0
    """What {layer} stands for in the first layer."""
    ignore: Keys = ()
    """Keys that mean nothing."""
    refuse: Mapping[str, Keys | bool] = field(default_factory=dict)
    """A reason in `REFUSED`, and the keys that give it away, or true for the whole family."""
    forward: Forward = Forward()
