"""Random nodes over the whole contract of the operator."""

import numpy as np
from hypothesis import strategies as st

from tests.native.reference import INPUTS, Array

SIZES = st.one_of(st.integers(0, 9), st.sampled_from([12, 15, 16, 17, 20, 24, 31, 33, 48, 67]))

STARTS = [(0, 1), (0, 9), (0, 2**31), (2**63 - 9, 2**63)]
"""From the one to below the other; the last are so large that a sum with t overflows."""


@st.composite
def inputs(draw: st.DrawFn, dtype: type = np.float32, least: int = 0) -> dict[str, Array]:
    """Draw the inputs of a node.

    Args:
        draw: Hypothesis'.
        dtype: Of its floating point inputs.
        least: Of T and N.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    time, batch = draw(st.integers(least, 12)), draw(st.integers(least, 9))
    features, hidden = draw(SIZES), draw(SIZES)
    rows = draw(st.integers(1, 5))
    steps = draw(st.integers(1, 8))

    def normal(*shape: int, scale: float = 1) -> Array:
        return (scale * random.standard_normal(shape)).astype(dtype)

    def states() -> int:
        return draw(st.sampled_from([1, batch]))

    arrays = {
        "X": normal(time, batch, features),
        "weight_ih": normal(4 * hidden, features),
        "weight_hh": normal(4 * hidden, hidden, scale=max(hidden, 1) ** -0.5),
        "bias": normal(rows, 4 * hidden),
        "initial_h": normal(states(), hidden, scale=0.5),
        "initial_c": normal(states(), hidden),
        "input_scale": 1 + normal(rows, 4 * hidden, scale=0.5),
        "hidden_scale": 1 + normal(rows, 4 * hidden, scale=0.5),
        "cell_scale": 1 + normal(rows, hidden, scale=0.5),
        "cell_shift": normal(rows, hidden),
        "lengths": random.integers(0, time + 3, states()),
        "start_step": random.integers(*draw(st.sampled_from(STARTS)), states()),
        "rows": random.integers(0, rows, steps),
    }
    left_empty = draw(st.sets(st.sampled_from([*INPUTS[6:8], "cell", *INPUTS[10:]])))
    if "cell" in left_empty:
        left_empty |= {"cell_scale", "cell_shift"}
    return {name: array for name, array in arrays.items() if name not in left_empty}
