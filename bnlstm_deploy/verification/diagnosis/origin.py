"""Where a graph's error comes from: a value that is wrong though what it is made of is not."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnlstm_deploy.verification.diagnosis.places import Place
from bnlstm_deploy.verification.diagnosis.recompute import Value


@dataclass(frozen=True)
class Origin:
    """A value that introduces error."""

    intermediate: str
    """`input product`, `hidden product`, `gates`, `cell`, `affine`, `output`, `lstm operator`, what
    goes into or out of a layer, or the output of the model that the head gives."""
    stream: int
    """In the failing input."""
    index: tuple[int, ...]
    """Of the element with the largest error, in the features of the value."""
    expected: float
    """From the graph's own inputs to it, in float64."""
    actual: float
    error: float
    explained: float
    """The error that rounding explains."""
    place: str = ""
    """The layer and direction in words; empty outside the recurrent layers."""
    module: str = ""
    """Path of the BNLSTM in the model."""
    layer: int | None = None
    direction: str = ""
    """`forward` or `reverse`; empty outside the recurrent layers."""
    step: int | None = None
    """The timestep, from the direction's own start; None if it has none."""
    position: int | None = None
    """Where that is in the sequence: the same, but for a reverse direction."""
    row: int | None = None
    """Row of the statistics of that timestep, in the expected fold."""

    def __str__(self) -> str:
        where = self.place or "outside the recurrent layers"
        when = ""
        if self.step is not None:
            when = f", timestep {self.step}"
            if self.position != self.step:
                when += f" of its own (position {self.position} in the sequence)"
        what = f"{self.intermediate}[{', '.join(map(str, self.index))}]"
        return (
            f"{where}{when}: {what} is {self.actual:.7g} instead of {self.expected:.7g}, off by "
            f"{self.error:.2g} where rounding explains {self.explained:.2g}"
        )


def origin_of(
    what: str, expected: Value, actual: NDArray[np.generic], place: Place | None = None
) -> Iterator[Origin]:
    """Yield where a value is off by more than rounding explains, if it is.

    Args:
        what: The intermediate.
        expected: The value and its bound, the streams on the first axis.
        actual: The graph's, of the same shape.
        place: The layer and direction, if it belongs to one.
    """
    where: dict[str, Any] = {}
    if place is not None:
        where = {"module": place.path, "layer": place.layer, "direction": place.direction}
        where["place"] = str(place)
    if actual.shape != expected.value.shape:
        yield Origin(what, 0, (), np.nan, np.nan, np.inf, 0.0, **where)
        return
    differs = expected.differs(actual)
    if not differs.any():
        return
    errors = np.abs(actual.astype(np.float64) - expected.value)
    ranked = np.where(differs, np.nan_to_num(errors, nan=np.inf), -1)
    index = tuple(int(i) for i in np.unravel_index(ranked.argmax(), ranked.shape))
    parts = (expected.value, actual, errors, expected.bound)
    value, given, error, bound = (float(part[index]) for part in parts)
    yield Origin(what, index[0], index[1:], value, given, error, bound, **where)
