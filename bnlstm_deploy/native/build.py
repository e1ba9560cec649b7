"""Compiles the native kernel's library with Zig's C++ compiler, a wheel on PyPI.

    python -m bnlstm_deploy.native.build

builds it in its place in the package, for this machine. Every target is built from every machine,
and no compiler or header of the machine is read. The library needs libc and libm alone, and its
one symbol is `RegisterCustomOps`.

`kernel.cpp` is compiled once for each instruction set of the target's CPU, with `-DISA=` its name;
`op.cpp` finds in the compiler's own macros which CPU that is, and so which there are. Of the
instruction sets' features, those named in `INSTRUCTION_SETS` are all that the code may use.

The kernels for GPUs are compiled already, in `cuda/kernels.zip`, and become a part of the library
wherever there is CUDA.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from bnlstm_deploy.atomic import replacing
from bnlstm_deploy.errors import BnlstmError
from bnlstm_deploy.extras import require
from bnlstm_deploy.native import LIBRARY_NAMES, digest_path

__all__ = ["INSTRUCTION_SETS", "PLATFORMS", "Platform", "build", "this_platform"]

SOURCES = Path(__file__).parent / "src"

CUDA = Path(__file__).parent / "cuda" / "kernels.zip"
"""The kernels for GPUs, as `make kernels` wrote them."""

TUNED = Path(__file__).parent / "cuda" / "tuned.json"
"""Up to how many blocks a multiprocessor `sequence` is faster than `step`, as `make tune` measured:
by compute capability, kind, and the most hidden units of the kernel."""

INSTRUCTION_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "baseline": (),
        "avx2": ("-mavx2", "-mfma"),
        # Without a preference compilers may halve vectors, for the sake of CPUs before Ice Lake.
        "avx512": (
            *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"),
            "-mprefer-vector-width=512",
        ),
    },
    "aarch64": {"neon": ()},
}
"""The compiler's flags for each instruction set of each CPU, in spellings all compilers share."""

# The source says where a product and a sum are one rounding, so that all compilers round alike.
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fno-exceptions",
    "-fno-rtti",
    "-ffp-contract=off",
    "-fvisibility=hidden",
)

# Unasked, Zig traps undefined behaviour and links the standard library of C++.
ZIG_FLAGS = ("-fno-sanitize=undefined", "-nostdlib++")


# Other systems refuse undefined symbols by themselves.
LINKING = {
    "linux": ("-Wl,-z,defs", "-ldl"),
    "macos": (f"-Wl,-install_name,@rpath/{LIBRARY_NAMES['darwin']}",),
    "windows": (),
}


ALIGNMENT = 64
"""Bytes; machine code for GPUs is a file in ELF, which its loader may read in place."""

EMBEDDED = r"""#include "cuda_kernels.h"

#if defined(_WIN32)
#define SECTION ".section .rdata,\"dr\"\n"
#define HIDDEN
#else
#define SECTION ".section .rodata\n"
#define HIDDEN ".hidden bnlstm_cuda_code\n"
#endif
__asm__(SECTION ".globl bnlstm_cuda_code\n" HIDDEN
        ".balign 64\n"
        "bnlstm_cuda_code:\n"
        ".incbin \"cuda_code.bin\"\n"
        ".text\n");

namespace bnlstm::cuda {
const Binary BINARIES[] = {
ROWS};
const size_t BINARY_COUNT = sizeof BINARIES / sizeof *BINARIES;
}  // namespace bnlstm::cuda
"""
"""The source that holds the kernels for GPUs, but for the rows of their table."""


class Platform(NamedTuple):
    """What a platform's wheel holds."""

    target: str
    """Zig's name, with the oldest libc or system that the library runs on."""
    tag: str
    """The wheel's platform tag."""
    system: str
    """Its `sys.platform`."""

    @property
    def library(self) -> str:
        """The library's file name."""
        return LIBRARY_NAMES[self.system]


PLATFORMS = {
    "linux-x86_64": Platform("x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64", "linux"),
    "linux-aarch64": Platform("aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64", "linux"),
    "macosx-arm64": Platform("aarch64-macos.11.0", "macosx_11_0_arm64", "darwin"),
    "macosx-x86_64": Platform("x86_64-macos.11.0", "macosx_11_0_x86_64", "darwin"),
    "win-amd64": Platform("x86_64-windows-gnu", "win_amd64", "win32"),
}
"""The platforms that a native wheel is built for."""


def this_platform() -> str:
    """Return the key in `PLATFORMS` of the machine that Python runs on.

    Raises:
        BnlstmError: There is no native build for it.
    """
    name = sysconfig.get_platform()
    if sys.platform == "darwin":  # Python itself may be universal
        name = f"macosx-{platform.machine()}"
    if name not in PLATFORMS or (sys.platform == "linux" and platform.libc_ver()[0] != "glibc"):
        raise BnlstmError(
            f"there is no native kernel for {name} with {platform.libc_ver()[0] or 'this libc'}, "
            f"only for {', '.join(PLATFORMS)}, and for Linux with glibc"
        )
    return name


def build(
    output: Path,
    target: str | None = None,
    *,
    flags: Sequence[str] = (),
    compiler: Sequence[str] | None = None,
    program: Path | None = None,
) -> None:
    """Compile and link the library, and write its digest beside it. Files appear whole or not.

    The last three arguments are for tests:

        build(driver, flags=["-fsanitize=address", "-g"], compiler=["g++"], program=source)
        build(driver, "aarch64-linux-musl", flags=["-static"], program=source)

    Args:
        output: The file to write.
        target: A target of Zig's, such as `"aarch64-linux-gnu.2.17"`; by default this machine.
        flags: Further flags for every compilation and for linking; the last of two that
            contradict each other holds.
        compiler: The command of another C++ compiler, one for this machine, instead of Zig's.
        program: A source file with `main`; `output` is then a program, of it and of all that the
            library is made of, with their symbols.

    Raises:
        BnlstmError: This machine is none that there is a build for, or the compiler failed; its
            messages are in the error.
        MissingExtraError: The wheel `ziglang` is not installed.
        InputError: `output` cannot be written.
    """
    target = target or PLATFORMS[this_platform()].target
    if compiler is None:
        require("ziglang", extra="native")
        compiler = (sys.executable, "-m", "ziglang", "c++", "-target", target, *ZIG_FLAGS)
    command = (*compiler, *FLAGS, *flags)
    with tempfile.TemporaryDirectory() as name, replacing(output) as temporary:
        folder = Path(name)
        environment = _environment(folder)

        def compile_one(source: Path, stem: str, own: Sequence[str]) -> str:
            made = f"{stem}.o"
            _run((*command, *own, "-c", str(source), "-o", made), folder, environment)
            return made

        sources: list[tuple[Path, str, Sequence[str]]] = [
            (SOURCES / f"{stem}.cpp", stem, ()) for stem in ("op", "forward")
        ]
        for isa, own in INSTRUCTION_SETS[target.partition("-")[0]].items():
            sources.append((SOURCES / "kernel.cpp", isa, (*own, f"-DISA={isa}")))
        system = target.split("-")[1].partition(".")[0]
        if system != "macos":
            embedded = _embed_kernels(folder)
            own = (f"-I{SOURCES}",)
            sources += [(SOURCES / f"{stem}.cpp", stem, ()) for stem in ("cuda_op", "cuda_driver")]
            sources.append((embedded, embedded.stem, own))
        if program:
            sources.append((program.resolve(), "program", (f"-I{SOURCES}",)))
            form = ["-ldl"] if system == "linux" else []
        else:
            form = ["-shared", "-s", *LINKING[system]]
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, *zip(*sources, strict=True)))
        # A macOS or Windows library holds the name that it was linked as.
        _run((*command, *form, *objects, "-o", output.name), folder, environment)
        shutil.copyfile(folder / output.name, temporary)
    if program:
        output.chmod(0o755)
        return
    with replacing(digest_path(output)) as temporary:
        digest = hashlib.sha256(output.read_bytes()).hexdigest()
        temporary.write_text(f"{digest}\n", encoding="ascii")


def _embed_kernels(folder: Path) -> Path:
    """Write the kernels for GPUs as one file, and the source that puts it into the library."""
    rows, code = [], bytearray()
    tuned = json.loads(TUNED.read_text(encoding="utf-8"))
    with zipfile.ZipFile(CUDA) as archive:
        names = {*archive.namelist()}
        for kernel in json.loads(archive.read("kernels.json"))["kernels"]:
            name, _, units = kernel["kernel"].partition(" ")
            waves = tuned.get(str(kernel["capability"]), {}).get(kernel["kind"], {}).get(units, 1)
            for suffix, capability in (("cubin", str(kernel["capability"])), ("ptx", "PTX")):
                file = f"{kernel['file']}.{suffix}"
                if file not in names:
                    continue
                rows.append(
                    f"    {{{name.upper()}, {kernel['kind'].upper()}, {capability}, "
                    f"{kernel['unit']}, {kernel['feature']}, "
                    f"{', '.join(map(str, [*kernel['tiles'].values()][:2]))}, "
                    f'{kernel["warps"]}, {kernel["shared"]}, {waves}, "{name}", {len(code)}}},\n'
                )
                code += archive.read(file) + b"\0"  # as PTX ends
                code += bytes(-len(code) % ALIGNMENT)
    (folder / "cuda_code.bin").write_bytes(code)
    source = folder / "cuda_kernels.cpp"
    source.write_text(EMBEDDED.replace("ROWS", "".join(rows)), encoding="ascii")
    return source


def _environment(folder: Path) -> dict[str, str]:
    """Return the environment of the compiler.

    Zig compiles its parts of libc once, into a cache of the user's; where that cannot be written,
    the cache is in `folder`.
    """
    environment = dict(os.environ)
    try:
        cache = Path(environment.get("ZIG_GLOBAL_CACHE_DIR") or Path("~/.cache/zig").expanduser())
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except (OSError, RuntimeError):  # expanduser raises the latter where there is no home
        cache = folder / "zig"
    return environment | {"ZIG_GLOBAL_CACHE_DIR": str(cache)}


def _run(command: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise BnlstmError(f"{command[0]} cannot be run ({error.strerror})") from error
    if done.returncode:
        raise BnlstmError(
            f"the native kernel could not be compiled; {' '.join(command)} said:\n{done.stderr}"
        )


def main() -> None:
    """Build the library in its place in the package."""
    try:
        output = Path(__file__).parent / PLATFORMS[this_platform()].library
        build(output)
    except BnlstmError as error:
        sys.exit(f"Error: {error}")
    print(output)


if __name__ == "__main__":
    main()
