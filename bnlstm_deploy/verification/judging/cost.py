"""What a file's changes on purpose cost: merged rows, and weights stored in fewer bits."""

from dataclasses import dataclass, replace

import numpy as np

from bnlstm_deploy.signature import Array


@dataclass(frozen=True)
class Cost:
    """How far one output moves at each timestep, in float64, from that of the training model."""

    inputs: str
    """The kind of inputs: `normal`, or `data` for the user's own."""
    time: int
    """T."""
    value: str
    """The output."""
    largest: tuple[float, ...]
    """(T,), or (1,) for an output without timesteps: of all streams and features."""
    mean: tuple[float, ...]
    """Likewise, of their absolute values."""
    count: int
    """How many values the mean of a timestep is of."""

    @property
    def kind(self) -> tuple[str, int, str]:
        """What costs that may be added share."""
        return self.inputs, self.time, self.value

    def __add__(self, other: "Cost") -> "Cost":
        count = self.count + other.count
        sums = np.multiply(self.mean, self.count) + np.multiply(other.mean, other.count)
        return replace(
            self,
            largest=tuple(np.maximum(self.largest, other.largest).tolist()),
            mean=tuple((sums / max(count, 1)).tolist()),
            count=count,
        )


def cost(
    inputs: str, time: int, value: str, changed: Array, truth: Array, axis: int | None
) -> Cost:
    """Measure one output of one run.

    Args:
        inputs: The kind of inputs.
        time: T.
        value: The output's name.
        changed: Of the model as the file changes it, in float64.
        truth: Of the training model in float64, of the same shape.
        axis: That of time; None if there is none.
    """
    moved = np.abs(changed.astype(np.float64) - truth.astype(np.float64))
    steps = moved.reshape(1, -1) if axis is None else np.moveaxis(moved, axis, 0)
    steps = steps.reshape(len(steps), -1)
    return Cost(
        inputs=inputs,
        time=time,
        value=value,
        largest=tuple(steps.max(axis=1, initial=0).tolist()),
        mean=tuple((steps.sum(axis=1) / max(steps.shape[1], 1)).tolist()),
        count=steps.shape[1],
    )
