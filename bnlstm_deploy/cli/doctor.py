"""bnlstm-deploy doctor."""

import importlib.metadata
import json
import platform
import sys
from typing import Annotated, TypedDict

import typer
from rich.table import Table

from bnlstm_deploy.cli.console import make_console
from bnlstm_deploy.version import __version__

EXTRAS = {
    "onnxruntime": "cpu",
    "onnxruntime-gpu": "gpu",
    "torch": "convert",
    "onnx": "convert",
    "onnx-ir": "convert",
    "safetensors": "convert",
    "matplotlib": "report",
    "starlette": "serve",
    "grpcio": "serve",
    "tritonclient": "client",
    "ray": "ray",
    "ziglang": "native",
}
"""The extra that installs each package."""

EITHER = {"onnxruntime", "onnxruntime-gpu"}
"""One module: an environment has one of them."""


class Finding(TypedDict):
    """One line of what is found."""

    what: str
    found: str
    """Empty where it is missing."""
    remedy: str
    """What installs or mends it; empty where nothing needs to be."""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Show versions, providers and the native kernel; what is missing, and what installs it.

    Exit status: 0 if files can be run, 1 if not.

    Example: bnlstm-deploy doctor
    """
    findings = [*_system(), *_packages(), *_runtime()]
    if as_json:
        typer.echo(json.dumps(findings, indent=2))
    else:
        table = Table(show_edge=False)
        for column in ("", "found", "to install or mend it"):
            table.add_column(column, overflow="fold")
        for finding in findings:
            table.add_row(finding["what"], finding["found"] or "-", finding["remedy"])
        make_console().print(table)
    if not _version("onnxruntime") and not _version("onnxruntime-gpu"):
        raise typer.Exit(1)


def _finding(what: str, found: str, remedy: str = "") -> Finding:
    return Finding(what=what, found=found, remedy=remedy)


def _system() -> list[Finding]:
    return [
        _finding("bnlstm-deploy", __version__),
        _finding("Python", f"{platform.python_version()}, {sys.executable}"),
        _finding("machine", f"{platform.system()} {platform.machine()}"),
    ]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _packages() -> list[Finding]:
    findings = []
    versions = {package: _version(package) for package in EXTRAS}
    both = all(versions[package] for package in EITHER)
    either = any(versions[package] for package in EITHER)
    for package, extra in EXTRAS.items():
        remedy = "" if versions[package] else f"pip install 'bnlstm-deploy[{extra}]'"
        if package in EITHER and both:
            remedy = "pip uninstall one of the two: they are one module, and overwrite each other"
        elif package in EITHER and either:
            remedy = ""
        findings.append(_finding(package, versions[package], remedy))
    return findings


def _runtime() -> list[Finding]:
    """Return what ONNX Runtime can run on, and whether the native kernel is here."""
    try:
        import onnxruntime as ort
    except ImportError:
        return []
    from bnlstm_deploy.errors import RuntimeSessionError
    from bnlstm_deploy.native import library_path
    from bnlstm_deploy.runtime.cuda import problems
    from bnlstm_deploy.runtime.kernel import instruction_sets
    from bnlstm_deploy.runtime.provider_options import CUDA

    providers = ort.get_available_providers()
    findings = [_finding("providers", ", ".join(providers))]
    try:
        path = str(library_path())
        sets = ", ".join(instruction_sets())
        remedy = "" if sets else f"{path} does not run here; serve with --no-native"
    except RuntimeSessionError as error:
        sets, remedy = "", str(error)
    findings.append(_finding("native kernel", sets, remedy))
    if CUDA in providers:
        trouble = " ".join(problems())
        findings.append(_finding("CUDA", "" if trouble else "starts", trouble))
    return findings
