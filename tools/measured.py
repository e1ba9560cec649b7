"""What the benchmark measures."""

from dataclasses import dataclass

from tools.peers import Size
from tools.roofline import Roof


@dataclass(frozen=True)
class Result:
    """What was measured of one peer; None where it is not, or where there is no file."""

    peer: str
    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    us_per_timestep: float
    ratio: float
    peak_memory_mb: float | None
    load_ms: float | None
    export_s: float | None
    file_mb: float | None


@dataclass(frozen=True)
class Case:
    """All peers at one size and number of threads."""

    size: Size
    threads: int
    rounds: int
    differences: dict[str, float]
    """Largest absolute difference between the outputs of two peers that should be equal."""
    errors: dict[str, float]
    """Largest absolute error of those that compute the BNLSTM, against it in float64."""
    roof: Roof | None
    """Of the CPU."""
    results: list[Result]
