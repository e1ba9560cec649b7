"""Compile the kernels in Triton's language for every architecture, and write down what they take.

    make kernels

writes bnlstm_deploy/native/cuda/kernels.zip, of which the native library is built: the machine
code of each kernel, and kernels.json, which says how each is launched and what it takes. The tiles
are the first of the candidates that keep everything in registers and fit into shared memory. No GPU
and no driver is needed.
"""

import hashlib
import json
import os
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.progress import track

from bnlstm_deploy.atomic import replacing

FOLDER = Path(__file__).parents[1] / "bnlstm_deploy" / "native" / "cuda"
OUTPUT = FOLDER / "kernels.zip"
FACTS = "kernels.json"
SOURCE = FOLDER / "kernels.py"

SHARED = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""KiB of shared memory that a block may have, by compute capability (CUDA's programming guide)."""

PORTABLE = 80
"""The capability whose PTX is for GPUs that no machine code is for: their driver compiles it."""

KINDS = {
    "float32": ("fp32", "ieee"),
    "tf32": ("fp32", "tf32"),
    "float16": ("fp16", "ieee"),
    "bfloat16": ("bf16", "ieee"),
}
"""Of operands: their type to Triton, and the precision of products of float32."""

TURING = ("float32", "float16")
"""What tensor cores and registers of compute capability 7.5 know."""

VECTOR = 4
"""What H, or D, is a multiple of, where the rows of arrays are aligned; else 1."""

ALIGNED = {"begin": ((1, 1),), "input_part": ((1, 1), (VECTOR, 1), (VECTOR, VECTOR))} | {
    name: ((VECTOR, 1),) if name.startswith("sequence") else ((1, 1), (VECTOR, 1))
    for name in ("step", "sequence 32", "sequence 64", "sequence 128")
}
"""UNIT and FEATURE of each kernel; of `sequence` for each most number of hidden units."""

TILES: dict[str, tuple[tuple[dict[str, int], int], ...]] = {
    "begin": (({"BN": 16, "BH": 64}, 4),),
    "input_part": (
        ({"BM": 32, "BG": 64, "BK": 32}, 4),
        ({"BM": 32, "BG": 32, "BK": 32}, 4),
        ({"BM": 16, "BG": 32, "BK": 32}, 4),
    ),
    "step": (
        ({"BN": 16, "BH": 32, "BK": 32}, 4),
        ({"BN": 16, "BH": 16, "BK": 32}, 4),
        ({"BN": 16, "BH": 16, "BK": 16}, 4),
    ),
    **{
        f"sequence {units}": tuple(
            ({"BN": 16, "BH": units}, warps) for warps in (4, 8, 16) if units >= 8 * warps
        )
        for units in (32, 64, 128)
    },
}
"""Candidates of tiles and warps."""

OPERANDS = ("x", "weight_ih", "weight_hh", "h", "y")
FEATURED = ("x", "weight_ih")
"""Arrays whose rows are of D numbers."""

INTEGERS = ("lengths", "start_step", "rows")
POINTERS = (
    *(*OPERANDS, *INTEGERS, "initial_h", "initial_c", "y_h", "y_c", "bias", "input_scale"),
    *("hidden_scale", "cell_scale", "cell_shift", "part"),
)


@dataclass(frozen=True)
class Job:
    """What is to be compiled."""

    kernel: str
    """Its name; of `sequence` with the most hidden units."""
    kind: str
    capability: int
    unit: int
    feature: int

    @property
    def name(self) -> str:
        """Of its file, without the suffix."""
        words = self.kernel.replace(" ", "_"), self.kind, self.unit, self.feature
        return f"{self.capability}/" + "-".join(map(str, words))


@dataclass(frozen=True)
class Built:
    """A kernel for one architecture."""

    kernel: str
    kind: str
    capability: int
    unit: int
    feature: int
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

    @property
    def job(self) -> Job:
        """What was asked for."""
        return Job(self.kernel, self.kind, self.capability, self.unit, self.feature)


def main() -> None:
    """Compile everything, in as many processes as there are cores."""
    import triton

    os.environ["TRITON_DISABLE_LINE_INFO"] = "1"  # half the size
    jobs = list(wanted())
    with ProcessPoolExecutor() as pool:
        made = list(track(pool.map(build, jobs), "Compiling", total=len(jobs)))
    fitting = [one for one in made if one[0].spilled == 0 and fits(one[0])]
    left_out = [one for one, _, _ in made if one.spilled or not fits(one)]
    facts = {
        "source_sha256": source_hash(),
        "triton": triton.__version__,
        "kernels": [asdict(one) | {"file": one.job.name} for one, _, _ in fitting],
        "left_out": [
            f"{one.kernel}, {one.kind}, {one.capability}: {one.spilled} bytes spilled, "
            f"{one.shared} of shared memory"
            for one in left_out
        ],
    }
    with replacing(OUTPUT) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        _add(archive, FACTS, json.dumps(facts, indent=1).encode())
        for one, cubin, ptx in fitting:
            _add(archive, f"{one.job.name}.cubin", cubin)
            if one.capability == PORTABLE:
                _add(archive, f"{one.job.name}.ptx", ptx.encode())


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a file with no date, so that the same kernels are the same bytes."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)


def read() -> tuple[dict[str, Any], list[Built]]:
    """Return what kernels.json says, and its kernels."""
    with zipfile.ZipFile(OUTPUT) as archive:
        facts: dict[str, Any] = json.loads(archive.read(FACTS))
    names = [field.name for field in fields(Built)]
    return facts, [Built(**{name: one[name] for name in names}) for one in facts["kernels"]]


def wanted() -> Iterator[Job]:
    """Yield all that is to be compiled."""
    for capability in SHARED:
        for kernel, aligned in ALIGNED.items():
            for kind in KINDS if capability > min(SHARED) else TURING:
                if kernel != "begin" or kind != "tf32":
                    for unit, feature in aligned:
                        yield Job(kernel, kind, capability, unit, feature)


def source_hash() -> str:
    """Return the SHA-256 of the kernels' source."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


def fits(built: Built) -> bool:
    """Whether a block gets the shared memory that it needs."""
    return built.shared <= SHARED[built.capability] * 1024


def build(job: Job) -> tuple[Built, bytes, str]:
    """Compile a kernel with the first tiles that fit, or the last of them."""
    for tiles, warps in TILES[job.kernel]:
        built = compiled(job, tiles, warps)
        if built[0].spilled == 0 and fits(built[0]):
            break
    return built


def compiled(job: Job, tiles: dict[str, int], warps: int) -> tuple[Built, bytes, str]:
    """Compile a kernel with given tiles; return what it takes, the cubin and the PTX."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from bnlstm_deploy.native.cuda import kernels

    function: Any = getattr(kernels, job.kernel.partition(" ")[0])
    operand, precision = KINDS[job.kind]
    constants = {"PRECISION": precision, "UNIT": job.unit, "FEATURE": job.feature, **tiles}
    types = {
        name: "constexpr"
        if name in constants
        else f"*{operand if name in OPERANDS else 'i64' if name in INTEGERS else 'fp32'}"
        if name in POINTERS
        else "i32"
        for name in function.arg_names
    }
    aligned = job.unit == VECTOR
    source = ASTSource(
        fn=function,
        signature=types,
        constexprs={name: value for name, value in constants.items() if name in types},
        attrs={
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(types)
            if aligned and name in POINTERS and (job.feature == VECTOR or name not in FEATURED)
        },
    )
    options = {"num_warps": warps, "enable_fp_fusion": True}
    target = GPUTarget("cuda", job.capability, 32)
    made: Any = triton.compile(source, target=target, options=options)
    cubin = made.asm["cubin"]
    found = usage(cubin)
    built = Built(
        **asdict(job),
        tiles=tiles,
        warps=warps,
        registers=found["REG"],
        spilled=found["STACK"] + found["LOCAL"],
        shared=made.metadata.shared,
        size=len(cubin),
    )
    return built, cubin, made.asm["ptx"]


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
