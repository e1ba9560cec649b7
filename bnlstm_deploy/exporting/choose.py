"""Which graph form and folding each layer and direction gets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, get_args

import numpy as np

from bnlstm_deploy.choices import Folding, Form, Target
from bnlstm_deploy.dtypes import NATIVE, REDUCED
from bnlstm_deploy.errors import ExportError
from bnlstm_deploy.exporting.forms import FACTORED, MATERIALIZED, lstm, scan, unrolled
from bnlstm_deploy.folding import FoldedDirection

AUTO = "auto"
CPU, CUDA = "cpu", "cuda"

ON_CUDA = "On CUDA the native kernel runs in its place where it can."


@dataclass(frozen=True)
class Request:
    """What is asked of an export.

    Raises:
        ExportError: An unknown value, or values that contradict each other.
    """

    form: Form = "auto"
    folding: Folding = "auto"
    target: Target = "cpu"
    length: int | None = None
    """T, if all sequences have that many timesteps."""
    dtype: str = "float32"
    """Of the graph's weights and activations."""

    @property
    def on_gpu(self) -> bool:
        """Whether launches are what a small timestep costs."""
        return self.target != CPU

    def __post_init__(self) -> None:
        for name, known in (("form", Form), ("folding", Folding), ("target", Target)):
            if getattr(self, name) not in get_args(known):
                raise ExportError(
                    f"{name} is {getattr(self, name)!r}; pass one of {', '.join(get_args(known))}"
                )
        if self.length is not None and self.length < 1:
            raise ExportError(f"length is {self.length}; pass at least 1 timestep")
        if self.form == unrolled.FORM and self.length is None:
            raise ExportError(
                "the form unrolled is for one number of timesteps: pass it as length (T)"
            )
        if self.form in (scan.FORM, lstm.FORM) and self.length is not None:
            raise ExportError(
                f"length is {self.length}, and the form {self.form} takes any number of timesteps; "
                "leave length out, or pass the form unrolled or auto"
            )
        if self.form == lstm.FORM and self.folding == MATERIALIZED:
            raise ExportError(
                "the form lstm has one recurrent weight for all timesteps, so there is nothing to "
                "materialize; leave folding out, or pass factored"
            )


class Choice(NamedTuple):
    """How one layer and direction is exported."""

    form: str
    folding: str
    reason: str
    """Why, in one sentence."""


def choose(direction: FoldedDirection, request: Request, name: str) -> Choice:
    """Choose the form and the folding of one layer and direction.

    A file is for all machines, so nothing depends on whether this one has the native kernel. That
    computes float32 and float64 on CPUs, float32 and reduced products on CUDA, and the form is
    nothing to it. What is chosen is the body where the kernel is not to be had: for a CPU one that
    loses little at any size.

    Args:
        direction: The fold that is exported, in its dtype.
        request: What is asked for. What it leaves to `auto` is what suits its target best among
            what is exact; docs/forms.md has the figures behind it.
        name: Of the direction in messages: its path and parameter suffix.

    Raises:
        ExportError: The form that is asked for is not exact for this direction.
    """
    if direction.h_levels and request.folding == MATERIALIZED:
        raise ExportError(
            "activations is int8 and folding is materialized: recurrent weights would not be "
            "integers; leave folding out, or pass factored"
        )
    obstacle = _lstm_obstacle(direction, request)
    if request.form == lstm.FORM:
        if obstacle:
            raise ExportError(
                f"{name} cannot be exported in the form lstm: {obstacle}. Pass the form auto or "
                f"{scan.FORM}"
            )
        return Choice(lstm.FORM, FACTORED, "The form lstm was asked for, and is exact.")
    if request.form == AUTO and not obstacle and request.folding != MATERIALIZED:
        if len(direction.bias) == 1:
            return Choice(lstm.FORM, FACTORED, "The fold is an ordinary LSTM, the same over time.")
        if request.on_gpu:
            return Choice(
                lstm.FORM,
                FACTORED,
                "Only what comes from the input changes over time; the rest is an ordinary LSTM, "
                "which cuDNN computes.",
            )
        obstacle = (
            "only an identity of 4H x 4H would bring it the input's part, which changes over time"
        )
    if request.form == unrolled.FORM or (
        request.form == AUTO and request.on_gpu and request.length is not None
    ):
        return _unrolled(direction, request)
    return _scan(request, obstacle)


def _unrolled(direction: FoldedDirection, request: Request) -> Choice:
    folding: str = request.folding
    if folding == AUTO:
        scaled = (direction.hidden_scale != 1).any() and not direction.h_levels
        launches = request.on_gpu and scaled
        folding = MATERIALIZED if launches else FACTORED
    if request.form == unrolled.FORM:
        return Choice(unrolled.FORM, folding, "The form unrolled was asked for.")
    return Choice(
        unrolled.FORM,
        folding,
        f"For {request.length} timesteps, no other form starts so few kernels on a GPU.",
    )


def _scan(request: Request, obstacle: str | None) -> Choice:
    folding = FACTORED if request.folding == AUTO else request.folding
    if request.form == scan.FORM:
        return Choice(scan.FORM, folding, "The form scan was asked for.")
    if obstacle is None:
        return Choice(scan.FORM, folding, "Materialized weights were asked for.")
    fixed = "" if request.length is None else ", and on a CPU a fixed length gains nothing"
    return Choice(scan.FORM, folding, f"Not the LSTM operator, as {obstacle}{fixed}.")


def summarize(choices: Mapping[str, Choice], request: Request) -> str:
    """Return the reasons for the choices, by the directions' names where they differ."""
    by_reason: dict[str, list[str]] = {}
    for name, choice in choices.items():
        by_reason.setdefault(choice.reason, []).append(name)
    reasons = [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    if len(by_reason) == 1:
        reasons = [*by_reason]
    if request.target == CUDA and request.dtype in NATIVE["cuda"]:
        reasons.append(ON_CUDA)
    return " ".join(reasons)


def _lstm_obstacle(direction: FoldedDirection, request: Request) -> str | None:
    """Why the direction is not an LSTM operator, or None if it is."""
    if direction.h_levels:
        return "h is rounded before the hidden product"
    if direction.normalizes_cell:
        return "the cell is normalized"
    if (direction.hidden_scale != direction.hidden_scale[0]).any():
        return "the hidden path's scale changes over time"
    if (direction.hidden_scale != 1).any():  # else it was absorbed into the weights
        return "the rows of the recurrent weights have scales of their own"
    if request.dtype in REDUCED:
        return f"the LSTM operator would keep the cell in {request.dtype}"
    if direction.bias.dtype != np.float32:
        return f"ONNX Runtime has no LSTM operator in {direction.bias.dtype} on CPU"
    return None
