"""The kernels of ONNX Runtime's CUDA provider, as its own documentation lists them.

`cuda.json` is written by tools/cuda_kernels.py from ONNX Runtime's docs/OperatorKernels.md, which
is generated from the registered kernels.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


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
    """Return the table of the CUDA provider."""
    text = (files("bnlstm_deploy.placement") / "cuda.json").read_text(encoding="utf-8")
    content = json.loads(text)
    return Table(
        version=content["version"],
        source=content["source"],
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
