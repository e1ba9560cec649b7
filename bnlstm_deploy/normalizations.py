"""The three normalizations of a timestep, by name. Nothing is imported."""

from typing import Literal, get_args

NormPath = Literal["input", "hidden", "cell"]
"""What is normalized: `W_x x`, `W_h h`, or the cell state before the output's tanh."""

PATHS: tuple[NormPath, ...] = get_args(NormPath)
"""All, in the order of a timestep."""
