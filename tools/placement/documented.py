"""Write the table of CUDA kernels that tools.placement reads.

python -m tools.placement.documented OperatorKernels.md --version 1.25.0 --revision 19c9efc4...

ONNX Runtime generates docs/OperatorKernels.md from the kernels that its execution providers
register. Of the CUDA provider's part this takes all operators of the domains ai.onnx and
com.microsoft, and of the CPU provider's part their names: ONNX Runtime replaces an operator that
neither provider has by the function that ONNX defines it as.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import onnx
import typer

DESTINATION = Path(__file__).with_name("cuda.json")
SOURCE = "https://github.com/microsoft/onnxruntime/blob/{revision}/docs/OperatorKernels.md"
HEADING = "## Operators implemented by {}ExecutionProvider"
DOMAINS = {"ai.onnx": "", "com.microsoft": "com.microsoft"}
"""The document's name of each domain that is kept, and the one in models."""

DTYPES = {"float": "float32", "double": "float64"}
"""ONNX's names of types that numpy calls otherwise."""

DOMAIN_ROW = re.compile(r"\*\*Operator Domain:\*\* \*(.+)\*")
VERSIONS = re.compile(r"(\d+)(\+)?|\[(\d+), (\d+)\]")
CONSTRAINT = re.compile(r"\*\*(\w+)\*\* = (.+)")
PARAMETER = re.compile(r"\*(in|out)\* ([^:]+):\*\*(.+?)\*\*")


def main(
    document: Annotated[Path, typer.Argument(help="A local copy of docs/OperatorKernels.md.")],
    version: Annotated[str, typer.Option(help="VERSION_NUMBER of that ONNX Runtime.")],
    revision: Annotated[str, typer.Option(help="The tag or commit that the copy is of.")],
) -> None:
    """Read the document, write the table."""
    text = document.read_text(encoding="utf-8")
    table = read_table(text, version, SOURCE.format(revision=revision))
    DESTINATION.write_text(to_json(table), encoding="utf-8")
    operators = sum(map(len, table["kernels"].values()))
    print(f"{DESTINATION}: {operators} operators, {DESTINATION.stat().st_size / 1000:.0f} KB")


def read_table(text: str, version: str, source: str) -> dict[str, Any]:
    """Return the table of a document.

    Returns:
        `kernels`: for each domain and operator its kernels as [first version, last version or None,
        {type parameter: dtypes}], the newest first. `parameters`: for the operators whose
        schemas are not in the onnx package, the names and types of inputs and outputs. `cpu`: for
        each domain the operators that the CPU provider has.

    Raises:
        ValueError: The document lacks a provider, or has a row of another form.
    """
    kernels: dict[str, dict[str, list[Any]]] = {domain: {} for domain in DOMAINS.values()}
    parameters: dict[str, dict[str, Any]] = {domain: {} for domain in DOMAINS.values()}
    for domain, op, signature, kernel in _rows(_part(text, "CUDA")):
        kernels[domain].setdefault(op, []).append(kernel)
        if not onnx.defs.has(op, domain):
            parameters[domain].setdefault(op, _parameters(signature))
    cpu: dict[str, set[str]] = {domain: set() for domain in DOMAINS.values()}
    for domain, op, _, _ in _rows(_part(text, "CPU")):
        cpu[domain].add(op)
    return {
        "version": version,
        "source": source,
        "kernels": kernels,
        "parameters": parameters,
        "cpu": {domain: sorted(names) for domain, names in cpu.items()},
    }


def _part(text: str, provider: str) -> str:
    heading = HEADING.format(provider)
    _, found, rest = text.partition(heading)
    if not found:
        raise ValueError(f"the document has no line {heading!r}: is it docs/OperatorKernels.md?")
    return rest.partition("\n## ")[0]


def _rows(text: str) -> Iterator[tuple[str, str, str, list[Any]]]:
    """Yield domain, operator, signature and kernel of each row."""
    domain = op = signature = None
    for line in text.splitlines():
        if heading := DOMAIN_ROW.search(line):
            domain = DOMAINS.get(heading[1])
            continue
        cells = line[1:-1].split("|")
        if not line.startswith("|") or len(cells) != 4 or domain is None:
            continue
        if cells[0]:  # else it is another range of versions of the operator above
            op, signature = cells[:2]
        if op is None or signature is None:
            raise ValueError(f"a row before the first operator: {line[:100]!r}")
        yield domain, op, signature, [*_versions(cells[2]), _constraints(cells[3])]


def _versions(cell: str) -> tuple[int, int | None]:
    """Read '13+', '[6, 12]' or '13'.

    A number alone is a kernel that another one follows: it is for that version only.
    """
    match = VERSIONS.fullmatch(cell.strip())
    if match is None:
        raise ValueError(f"versions are {cell!r}; known are 13+, [6, 12] and 13")
    alone, onwards, first, last = match.groups()
    if alone:
        return int(alone), None if onwards else int(alone)
    return int(first), int(last)


def _constraints(cell: str) -> dict[str, list[str]]:
    constraints = {}
    for part in filter(None, map(str.strip, re.split(r"<br/?>", cell))):
        match = CONSTRAINT.fullmatch(part)
        if match is None:
            raise ValueError(f"type constraint is {part!r}; known is **T** = tensor(float), ...")
        constraints[match[1]] = sorted(map(_dtype, match[2].split(", ")))
    return constraints


def _dtype(name: str) -> str:
    """tensor(float) becomes float32, seq(tensor(float)) seq(float32)."""
    name = re.sub(r"tensor\((\w+)\)", r"\1", name.strip())
    return re.sub(r"\w+(?=\)*$)", lambda match: DTYPES.get(match[0], match[0]), name)


def _parameters(signature: str) -> dict[str, list[list[str]]]:
    """Read the first of an operator's signatures, which is that of its newest version."""
    parameters: dict[str, list[list[str]]] = {"in": [], "out": []}
    for kind, name, type in PARAMETER.findall(signature.partition("<br>or<br>")[0]):
        parameters[kind].append([name, type])
    return parameters


def to_json(table: dict[str, Any]) -> str:
    """Return the table as JSON: sorted, and one operator a line, so that versions can be diffed."""

    def compact(value: object) -> str:
        return json.dumps(value, sort_keys=True, separators=(",", ":"))

    def lines(entries: dict[str, Any]) -> str:
        return ",\n".join(f"{compact(name)}:{compact(entries[name])}" for name in sorted(entries))

    parts = [f'"{name}":{compact(table[name])}' for name in ("version", "source", "cpu")]
    for part in ("kernels", "parameters"):
        domains = table[part]
        inner = ",\n".join(f"{compact(d)}:{{\n{lines(domains[d])}\n}}" for d in sorted(domains))
        parts.append(f'"{part}":{{\n{inner}\n}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    typer.run(main)
