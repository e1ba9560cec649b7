"""The diagnosis where the native kernel alone fails: then it is the library, and not the file."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from bnlstm_deploy.native import REMEDY as REINSTALL
from bnlstm_deploy.verification.judging.comparison import Comparison, largest
from bnlstm_deploy.verification.judging.report import Report
from bnlstm_deploy.verification.measuring.backend import FUNCTION_BODY, Backend

REMEDY = (
    f"The library was built wrongly. {REINSTALL}; until then run the file without it: "
    "native=False, or BNLSTM_DEPLOY_NATIVE=0"
)


@dataclass(frozen=True)
class NativeFailure:
    """A native kernel that does not compute what the file's own function body computes."""

    instruction_sets: tuple[str, ...]
    """Those for which it fails."""
    facts: tuple[str, ...]
    """How it fails, for each of them."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        return {"summary": str(self), **asdict(self)}

    def __str__(self) -> str:
        kernel = f"the native kernel ({', '.join(self.instruction_sets)})"
        first = f"{kernel} differs from the file's own function body, which passes"
        return "\n".join((first, *self.facts, REMEDY))


def native_failure(report: Report, crashes: Mapping[Backend, str]) -> NativeFailure | None:
    """Tell how the native kernel fails where nothing else does.

    Args:
        report: Of the failed check.
        crashes: Why a graph ended its process, by backend.

    Returns:
        What is known; None if something else fails, too.
    """
    wrong = list(dict.fromkeys((*(c.backend for c in report.failures), *crashes)))
    names = [backend.instruction_set for backend in wrong]
    native = tuple(name for name in names if name is not None)
    if not native or len(native) < len(names):
        return None
    facts = (f"{b.kernel}: {crashes.get(b) or _worst(report, b)}" for b in wrong)
    return NativeFailure(native, tuple(facts))


def _worst(report: Report, backend: Backend) -> str:
    """Describe the failure that is the most times what is allowed."""

    def excess(c: Comparison) -> float:
        return math.inf if math.isnan(c.error) else c.error / report.budget(c)

    worst = max((c for c in report.failures if c.backend == backend), key=excess)
    body = replace(worst, kernel=FUNCTION_BODY)
    alike = [c for c in report.comparisons if _place(c) == _place(body)]
    return (
        f"{worst.value} at {worst.case} is off by {worst.error:.1e}, the function body by "
        f"{largest(c.error for c in alike):.1e}; {report.budget(worst):.1e} is allowed"
    )


def _place(comparison: Comparison) -> tuple[str, str, str, Backend]:
    return comparison.stage, comparison.case, comparison.value, comparison.backend
