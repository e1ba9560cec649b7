"""What a stream carries from one chunk to the next, in this process or from a server."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class State:
    """The state of N streams of a recurrent model.

    h and c without the step are not enough: the step selects the statistics, and a stream that is
    continued with its step reset computes something else.
    """

    h: NDArray[np.floating]
    """(num_layers * num_directions, N, H)."""
    c: NDArray[np.floating]
    """(num_layers * num_directions, N, H)."""
    step: NDArray[np.int64] | None
    """(N,), timesteps consumed so far; None where streams cannot be continued."""
