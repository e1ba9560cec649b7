"""What runs a graph: an execution provider, and a kernel for its recurrent layers."""

from dataclasses import dataclass
from typing import NamedTuple

FUNCTION_BODY = "function body"
"""The kernel that every file has: the standard operators that its nodes stand for."""

_NATIVE = "native "


class Backend(NamedTuple):
    """An execution provider and a kernel."""

    provider: str
    """Its name, or the address of a served model; empty for the fold, which no runtime runs."""
    kernel: str = FUNCTION_BODY
    """`function body`, or `native avx2` and so on; empty for the fold, or where it is not known."""

    @classmethod
    def native(cls, provider: str, instruction_set: str) -> "Backend":
        """Return the backend of the native kernel for an instruction set."""
        return cls(provider, _NATIVE + instruction_set)

    @property
    def instruction_set(self) -> str | None:
        """That of a native kernel; None for another."""
        if not self.kernel.startswith(_NATIVE):
            return None
        return self.kernel.removeprefix(_NATIVE)

    def __str__(self) -> str:
        if self.provider and self.kernel:
            return f"{self.provider} ({self.kernel})"
        return self.provider or self.kernel


@dataclass(frozen=True, kw_only=True)
class OfBackend:
    """What was measured of a graph on one backend."""

    provider: str = ""
    """The backend's; empty for the fold."""
    kernel: str = FUNCTION_BODY
    """Likewise."""

    @property
    def backend(self) -> Backend:
        """What ran the graph."""
        return Backend(self.provider, self.kernel)
