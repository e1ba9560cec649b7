"""Builds what is released on this machine, and checks it: the wheel of every platform, the sdist.

python -m tools.wheels

They are written to dist/. The pure wheel, for every other platform, is one of them. Each is built
twice and must come out the same; beside them is a list of all that an installation brings, in the
format of CycloneDX.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Collection
from functools import partial
from importlib import metadata
from pathlib import Path

import lief
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.console import Console
from rich.table import Table

from bnlstm_deploy.native.build import ALIGNMENT, CUDA, PLATFORMS, Platform
from bnlstm_deploy.version import __version__

DIST = Path("dist")

MAX_BYTES = 400_000
"""The largest library that is allowed, without its kernels for GPUs: those for Windows and macOS on
x86-64, with three instruction sets, are the largest, 384 and 374 KB."""

MAX_WHEEL = 15_000_000
"""The largest wheel."""

OLDEST_GLIBC = 17
"""The minor version of the oldest glibc 2 that Linux wheels run on, as their tags say."""

# Those after the first are Mach-O's own, which Zig's linker exports.
EXPORTS = {
    "linux": {"RegisterCustomOps"},
    "darwin": {"_RegisterCustomOps", "__mh_dylib_header", "___dso_handle"},
    "win32": {"RegisterCustomOps"},
}
NEEDED = {
    "linux": r"lib[cm]\.so\.6|libdl\.so\.2",
    "darwin": r"/usr/lib/libSystem\.B\.dylib",
    "win32": r"KERNEL32\.dll|api-ms-win-crt-\w+-l1-1-0\.dll",
}
"""The libraries of C, and of Windows, that are everywhere."""


def make(name: str, folder: Path) -> Path:
    """Build a wheel in `folder` and return its file.

    Args:
        name: One of `PLATFORMS`, or `"any"` for the pure wheel.
        folder: Where to write it.
    """
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        env=os.environ | {"BNLSTM_DEPLOY_WHEEL": name},
        check=True,
    )
    tag = "any" if name == "any" else PLATFORMS[name].tag
    return folder / f"bnlstm_deploy-{__version__}-py3-none-{tag}.whl"


def make_sdist(folder: Path) -> Path:
    """Build the source distribution in `folder` and return its file."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder],
        check=True,
    )
    return folder / f"bnlstm_deploy-{__version__}.tar.gz"


def same_again(build: Callable[[Path], Path], file: Path) -> list[str]:
    """Return whether a second build differs, as a fault."""
    with tempfile.TemporaryDirectory() as folder:
        same = build(Path(folder)).read_bytes() == file.read_bytes()
    return [] if same else ["a second build is another file"]


def pinned(extras: Collection[str]) -> list[str]:
    """Return the distributions that this package brings with extras, as they are installed here.

    Args:
        extras: Of this package.

    Returns:
        Lines `name==version`, sorted.
    """
    found: dict[str, str] = {}
    waiting = [("bnlstm-deploy", frozenset(extras))]
    seen = set(waiting)
    while waiting:
        name, asked = waiting.pop()
        for text in metadata.requires(name) or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": e}) for e in ("", *asked)):
                continue
            child = (canonicalize_name(requirement.name), frozenset(requirement.extras))
            if child not in seen:
                seen.add(child)
                waiting.append(child)
                if child[0] != "bnlstm-deploy":
                    found[child[0]] = metadata.version(child[0])
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def write_sbom(path: Path) -> None:
    """Write what the server's installation brings, as a software bill of materials."""
    options = ["--output-reproducible", "--pyproject", "pyproject.toml", "--output-file", str(path)]
    subprocess.run(
        [sys.executable, "-m", "cyclonedx_py", "requirements", *options, "-"],
        input="\n".join(pinned(("cpu", "serve", "client"))),
        text=True,
        check=True,
    )


def library_of(wheel: Path, platform: Platform) -> bytes:
    """Return the native library in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"bnlstm_deploy/native/{platform.library}")


def embedded() -> int:
    """Return the bytes of the kernels for GPUs in a library, with what aligns them at most."""
    with zipfile.ZipFile(CUDA) as archive:
        return sum(entry.file_size + ALIGNMENT for entry in archive.infolist())


def library_faults(library: bytes, platform: Platform) -> list[str]:
    """Return what is wrong with a library: its size, its symbols, the libraries that it needs."""
    lief.logging.disable()  # it warns of the empty tables that Zig writes
    binary = lief.parse(library)
    match binary:
        case lief.ELF.Binary():
            exports = {str(symbol.name) for symbol in binary.exported_symbols}
            needed = {str(name) for name in binary.libraries}
        case lief.MachO.Binary():
            exports = {str(symbol.name) for symbol in binary.exported_symbols}
            own = lief.MachO.LoadCommand.TYPE.ID_DYLIB
            needed = {str(item.name) for item in binary.libraries if item.command != own}
        case lief.PE.Binary():
            exports = {str(function.name) for function in binary.exported_functions}
            needed = {str(name) for name in binary.libraries}
        case _:
            return ["it is no library"]
    faults = []
    size = len(library) - (0 if platform.system == "darwin" else embedded())
    if size > MAX_BYTES:
        faults.append(f"it has {size} bytes, more than {MAX_BYTES}")
    if exports != EXPORTS[platform.system]:
        faults.append(f"it exports {', '.join(sorted(exports)) or 'nothing'}")
    faults += [
        f"it needs {name}"
        for name in sorted(needed)
        if not re.fullmatch(NEEDED[platform.system], name)
    ]
    return faults


def policy_faults(wheel: Path) -> list[str]:
    """Return what keeps a wheel for Linux from the manylinux policy that its tag names."""
    done = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", "--json", wheel],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    tag = json.loads(done.stdout)["overall_tag"]
    glibc = re.match(r"manylinux_2_(\d+)_", tag)
    if glibc and int(glibc[1]) <= OLDEST_GLIBC:
        return []
    return [f"auditwheel finds it consistent with {tag} only"]


def main() -> None:
    """Build and check them all; exit with 1 if one has a fault."""
    table = Table("wheel", "wheel, KB", "library, KB", "faults")
    failed = False
    sdist = make_sdist(DIST)
    faults = same_again(make_sdist, sdist)
    failed |= bool(faults)
    table.add_row("sdist", f"{sdist.stat().st_size / 1e3:.0f}", "", "; ".join(faults) or "none")
    for name in ("any", *PLATFORMS):
        wheel = make(name, DIST)
        size, faults = "", same_again(partial(make, name), wheel)
        if name != "any":
            library = library_of(wheel, PLATFORMS[name])
            size = f"{len(library) / 1e3:.0f}"
            faults += library_faults(library, PLATFORMS[name])
        if name.startswith("linux"):
            faults += policy_faults(wheel)
        if wheel.stat().st_size > MAX_WHEEL:
            faults.append(f"the wheel has more than {MAX_WHEEL} bytes")
        failed |= bool(faults)
        table.add_row(name, f"{wheel.stat().st_size / 1e3:.0f}", size, "; ".join(faults) or "none")
    Console().print(table)
    write_sbom(DIST / f"bnlstm_deploy-{__version__}.cdx.json")
    files = sorted(DIST.glob(f"bnlstm_deploy-{__version__}*"))
    archives = [file for file in files if file.suffix != ".json"]
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *archives], check=False
    )
    sys.exit(failed or checked.returncode)


if __name__ == "__main__":
    main()
