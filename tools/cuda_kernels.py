"""Compile the kernels in Triton's language for every architecture, and write down what they take.

    make kernels

writes docs/kernels.json: for each kernel, dtype and compute capability the launch geometry, which
is the first of its candidates that keeps everything in registers and fits into shared memory, with
the registers, shared memory and size that the compiler gives it. No GPU and no driver is needed.
"""

import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.progress import track

from bnlstm_deploy.atomic import replacing

OUTPUT = Path(__file__).parents[1] / "docs" / "kernels.json"
SOURCE = Path(__file__).parents[1] / "bnlstm_deploy" / "native" / "cuda" / "kernels.py"

SHARED = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""KiB of shared memory that a block may have, by compute capability (CUDA's programming guide)."""

KINDS = {
    "float32": ("fp32", "ieee"),
    "tf32": ("fp32", "tf32"),
    "float16": ("fp16", "ieee"),
    "bfloat16": ("bf16", "ieee"),
}
"""Of operands: their type to Triton, and the precision of products of float32."""

TURING = ("float32", "float16")
"""What tensor cores and registers of compute capability 7.5 know."""

TILES: dict[str, tuple[tuple[dict[str, int], int], ...]] = {
    "begin": (({"BN": 16, "BH": 64}, 4),),
    "input_part": (
        ({"BM": 32, "BG": 64, "BK": 32}, 4),
        ({"BM": 32, "BG": 32, "BK": 32}, 4),
        ({"BM": 16, "BG": 32, "BK": 32}, 4),
    ),
    "step": (
        ({"BN": 16, "BH": 32, "BK": 64}, 4),
        ({"BN": 16, "BH": 32, "BK": 32}, 4),
        ({"BN": 16, "BH": 16, "BK": 32}, 4),
        ({"BN": 16, "BH": 16, "BK": 16}, 4),
    ),
    **{
        f"sequence {units}": tuple(
            ({"BN": 16, "BH": units}, warps) for warps in (4, 8, 16) if units >= 4 * warps
        )
        for units in (16, 32, 64, 128)
    },
}
"""Candidates of tiles and warps; of `sequence` for each most number of hidden units."""

POINTERS = (
    "initial_h initial_c h y_h y_c x weight_ih weight_hh bias input_scale hidden_scale "
    "cell_scale cell_shift lengths start_step rows part y"
).split()
OPERANDS = ("x", "weight_ih", "weight_hh", "h", "y")
INTEGERS = ("lengths", "start_step", "rows")


@dataclass(frozen=True)
class Built:
    """A kernel for one architecture."""

    kernel: str
    """Its name; of `sequence` with the most hidden units."""
    kind: str
    capability: int
    tiles: dict[str, int]
    warps: int
    registers: int
    """Of a thread."""
    spilled: int
    """Bytes of a thread that are not in registers."""
    shared: int
    """Bytes of a block."""
    size: int
    """Bytes of the cubin."""


def main() -> None:
    """Compile everything, in as many processes as there are cores."""
    jobs = list(wanted())
    with ProcessPoolExecutor() as pool:
        built = list(track(pool.map(build, jobs), "Compiling", total=len(jobs)))
    fitting = [one for one in built if one.spilled == 0 and fits(one)]
    content = {
        "source_sha256": source_hash(),
        "kernels": [asdict(one) for one in fitting],
        "left_out": [
            f"{one.kernel}, {one.kind}, {one.capability}: {one.spilled} bytes spilled, "
            f"{one.shared} of shared memory"
            for one in built
            if one not in fitting
        ],
    }
    with replacing(OUTPUT) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def wanted() -> Iterator[tuple[str, str, int]]:
    """Yield kernel, kind and capability of all that is to be compiled."""
    for capability in SHARED:
        for kernel in TILES:
            for kind in KINDS if capability > 75 else TURING:
                if kernel != "begin" or kind != "tf32":
                    yield kernel, kind, capability


def source_hash() -> str:
    """Return the SHA-256 of the kernels' source."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


def fits(built: Built) -> bool:
    """Whether a block gets the shared memory that it needs."""
    return built.shared <= SHARED[built.capability] * 1024


def build(job: tuple[str, str, int]) -> Built:
    """Compile a kernel with the first tiles that fit, or the last of them."""
    kernel, kind, capability = job
    for tiles, warps in TILES[kernel]:
        built = compiled(kernel, kind, capability, tiles, warps)
        if built.spilled == 0 and fits(built):
            break
    return built


def compiled(kernel: str, kind: str, capability: int, tiles: dict[str, int], warps: int) -> Built:
    """Compile a kernel with given tiles."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from bnlstm_deploy.native.cuda import kernels

    function: Any = getattr(kernels, kernel.partition(" ")[0])
    operand, precision = KINDS[kind]
    constants = {"PRECISION": precision, **tiles}
    types = {
        name: "constexpr"
        if name in constants
        else f"*{operand if name in OPERANDS else 'i64' if name in INTEGERS else 'fp32'}"
        if name in POINTERS
        else "i32"
        for name in function.arg_names
    }
    source = ASTSource(
        fn=function,
        signature=types,
        constexprs={name: value for name, value in constants.items() if name in types},
    )
    options = {"num_warps": warps, "enable_fp_fusion": True}
    made: Any = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    found = usage(made.asm["cubin"])
    return Built(
        kernel=kernel,
        kind=kind,
        capability=capability,
        tiles=tiles,
        warps=warps,
        registers=found["REG"],
        spilled=found["STACK"] + found["LOCAL"],
        shared=made.metadata.shared,
        size=len(made.asm["cubin"]),
    )


def usage(cubin: bytes) -> dict[str, int]:
    """Return what cuobjdump, of Triton's wheel, says of a kernel."""
    spec = find_spec("triton")
    assert spec is not None
    assert spec.origin is not None
    program = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(program), "-res-usage", file.name]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}


if __name__ == "__main__":
    main()
