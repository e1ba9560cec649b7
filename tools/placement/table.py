"""The kernels of ONNX Runtime's CUDA provider, as its own documentation lists them, and as found.

documented.py writes `cuda.json` from ONNX Runtime's docs/OperatorKernels.md, generated from
the registered kernels. tests/cuda_stub/kernels.py writes `measured.json`: it asks a newer provider
itself, of the operators that exported files have, which takes precedence.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Kernel:
    """The kernels of one operator for one range of its versions."""

    op: str
    domain: str
    """Empty for ai.onnx."""
    since: int
    """The first version of the operator that it is for."""
    until: int | None
    """The last one; None if no newer kernel follows it. See `runs`."""
    constraints: Mapping[str, frozenset[str]]
    """The dtypes of each type parameter, by their names in numpy or ml_dtypes; of sequences as
    `seq(float32)`. A parameter that is an input of a fixed type goes by the input's name."""

    def runs(self, version: int) -> bool:
        """Whether it is for nodes of a version of the operator.

        One without an end is for its first version only: when it was registered, there was no newer
        one that it could have been tried with.
        """
        # VerifyVersion in onnxruntime/core/framework/kernel_registry.cc
        if self.until is None:
            return version == self.since
        return self.since <= version <= self.until

    @property
    def versions(self) -> str:
        """The range in words: `13`, `9 to 12`."""
        last = self.since if self.until is None else self.until
        return str(self.since) if last == self.since else f"{self.since} to {last}"


@dataclass(frozen=True)
class Parameters:
    """The inputs and outputs of an operator whose schema is not in the onnx package."""

    inputs: tuple[tuple[str, str], ...]
    """Names, and type parameters or fixed types as `tensor(int64)`."""
    outputs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """What one version of ONNX Runtime has kernels of."""

    version: str
    """The version of ONNX Runtime."""
    source: str
    """The document that says so."""
    measured: str
    """The version of ONNX Runtime that was asked of some operators in its place; empty if none."""
    kernels: Mapping[tuple[str, str], tuple[Kernel, ...]]
    """By domain and operator, the newest first."""
    parameters: Mapping[tuple[str, str], Parameters]
    """By domain and operator, of those that the onnx package does not have."""
    cpu: frozenset[tuple[str, str]]
    """Domains and operators that the CPU provider has kernels of, whatever version or dtype."""

    @property
    def domains(self) -> frozenset[str]:
        """The domains that it knows."""
        return frozenset(domain for domain, _ in self.kernels)


@cache
def cuda_table() -> Table:
    """Return the table of the CUDA provider, with what was measured in it."""
    documented, measured = documented_table(), _read("measured.json")
    kernels = dict(documented.kernels)
    tried = frozenset(measured["dtypes"])
    for op, found in measured["kernels"].items():
        versions = {
            int(version): {name: frozenset(dtypes) for name, dtypes in parameters.items()}
            for version, parameters in found.items()
        }
        kernels["", op] = _corrected(op, kernels.get(("", op), ()), versions, tried)
    return replace(documented, measured=measured["version"], kernels=kernels)


@cache
def documented_table() -> Table:
    """Return the table of the CUDA provider as it is documented."""
    content = _read("cuda.json")
    return Table(
        version=content["version"],
        source=content["source"],
        measured="",
        kernels={
            (domain, op): tuple(
                Kernel(op, domain, since, until, {n: frozenset(d) for n, d in dtypes.items()})
                for since, until, dtypes in entries
            )
            for domain, ops in content["kernels"].items()
            for op, entries in ops.items()
        },
        parameters={
            (domain, op): Parameters(
                tuple((name, type) for name, type in entry["in"]),
                tuple((name, type) for name, type in entry["out"]),
            )
            for domain, ops in content["parameters"].items()
            for op, entry in ops.items()
        },
        cpu=frozenset((domain, op) for domain, ops in content["cpu"].items() for op in ops),
    )


def _corrected(
    op: str,
    documented: tuple[Kernel, ...],
    measured: Mapping[int, Mapping[str, frozenset[str]]],
    tried: frozenset[str],
) -> tuple[Kernel, ...]:
    """Put what was measured of an operator in place of what is documented.

    Args:
        op: The operator, of ai.onnx.
        documented: Its kernels, the newest first.
        measured: For consecutive versions the dtypes that there are kernels for, by type parameter.
        tried: The dtypes that were tried; of others the document is believed.
    """
    first, last = min(measured), max(measured)
    kernels = [kernel for kernel in documented if kernel.since > last]
    for version in sorted(measured, reverse=True):
        constraints: dict[str, frozenset[str]] = {}
        for kernel in documented:
            if kernel.runs(version):
                constraints |= kernel.constraints
        for name, dtypes in measured[version].items():
            constraints[name] = constraints.get(name, frozenset()) - tried | dtypes
        if all(constraints.values()):
            kernels.append(Kernel(op, "", version, version, constraints))
    for kernel in documented:
        if kernel.since < first:
            until = None if kernel.until is None else min(kernel.until, first - 1)
            kernels.append(replace(kernel, until=until))
    return tuple(kernels)


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (files("tools.placement") / name).read_text(encoding="utf-8")
    )
    return content
