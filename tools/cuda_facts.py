"""What is known of the kernels for GPUs without a GPU.

    python -m tools.cuda_facts

writes it into docs/gpu.md, for which `make kernels` calls it.

Occupancy follows from CUDA's rules for a multiprocessor. The roofline is the least time that a
timestep can take on a GPU: its arithmetic at the data sheet's rate, or what it reads and writes at
the rate of the card's memory, whichever takes longer. Launches, waits and caches are in neither.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bnlstm_deploy.atomic import replacing
from tools.cuda_kernels import Built, read

PAGE = Path(__file__).parents[1] / "docs" / "gpu.md"
KERNELS = "<!-- kernels: begin -->\n", "<!-- kernels: end -->\n"
ROOFLINES = "<!-- rooflines: begin -->\n", "<!-- rooflines: end -->\n"


@dataclass(frozen=True)
class Multiprocessor:
    """What one holds at a time (CUDA's programming guide, technical specifications)."""

    warps: int
    blocks: int
    shared: int
    """KiB."""
    reserved: int
    """KiB of shared memory that the system takes of each block."""


MULTIPROCESSORS = {
    75: Multiprocessor(32, 16, 64, 0),
    80: Multiprocessor(64, 32, 164, 1),
    86: Multiprocessor(48, 16, 100, 1),
    89: Multiprocessor(48, 24, 100, 1),
    90: Multiprocessor(64, 32, 228, 1),
    100: Multiprocessor(64, 32, 228, 1),
    120: Multiprocessor(48, 24, 100, 1),
}
REGISTERS = 65536
"""Of a multiprocessor; a warp gets a multiple of 256, and warps get them by fours."""


@dataclass(frozen=True)
class Card:
    """A GPU, by its data sheet."""

    name: str
    capability: int
    memory: float
    """Bytes a second."""
    products: dict[str, float]
    """Floating point operations a second in dense products, by the kind of operands."""


CARDS = (
    Card("H100 SXM", 90, 3.35e12, {"float32": 67e12, "float16": 989e12}),
    Card("T4", 75, 320e9, {"float32": 8.1e12, "float16": 65e12}),
)

SIZES = ((1, 100), (32, 100), (64, 256), (256, 512))
"""N and H of the rooflines."""


def occupancy(built: Built) -> float:
    """Return the part of a multiprocessor's warps that its blocks can be."""
    limits = MULTIPROCESSORS[built.capability]
    of_warp = -(-built.registers * 32 // 256) * 256
    by_registers = REGISTERS // of_warp // 4 * 4 // built.warps
    bytes_ = built.shared + limits.reserved * 1024
    by_shared = limits.shared * 1024 // bytes_ if bytes_ else limits.blocks
    blocks = min(limits.blocks, limits.warps // built.warps, by_registers, by_shared)
    return blocks * built.warps / limits.warps


def operations(N: int, H: int) -> int:
    """Return the floating point operations of a timestep's recurrent products."""
    return 2 * N * 4 * H * H


def transfers(N: int, H: int, kind: str, *, sequence: bool) -> int:
    """Return the bytes that a timestep must read and write at least, each value once.

    They are the input's part, h of the timestep as an output and, with a launch for each timestep,
    the recurrent weights, h as an operand, and the states; and a row of hidden_scale, cell_scale
    and cell_shift.
    """
    operand = 4 if kind == "float32" else 2
    streamed = 4 * N * 4 * H + operand * N * H + 4 * (4 * H + 2 * H)
    if sequence:
        return streamed
    return streamed + operand * (4 * H * H + N * H) + 4 * (N * H + 2 * N * H)


def roofline(card: Card, N: int, H: int, kind: str, *, sequence: bool) -> float:
    """Return the least microseconds of a timestep."""
    arithmetic = operations(N, H) / card.products[kind]
    memory = transfers(N, H, kind, sequence=sequence) / card.memory
    return max(arithmetic, memory) * 1e6


def kernels_table(kernels: Iterable[Built]) -> str:
    """Lay out what each kernel takes: of those for aligned rows, where there are others, too."""
    lines = [
        "| kernel | dtype | capability | tile | warps | registers | spilled | shared, KiB "
        "| occupancy |",
        "|---|---|---|---|---:|---:|---:|---:|---:|",
    ]
    widest: dict[tuple[str, str, int], Built] = {}
    for one in kernels:
        key = one.kernel, one.kind, one.capability
        if key not in widest or one.unit * one.feature > widest[key].unit * widest[key].feature:
            widest[key] = one
    for one in widest.values():
        tile = " x ".join(map(str, one.tiles.values()))
        lines.append(
            f"| `{one.kernel}` | {one.kind} | {one.capability / 10:.1f} | {tile} | {one.warps} "
            f"| {one.registers} | {one.spilled} | {one.shared / 1024:.0f} | {occupancy(one):.0%} |"
        )
    return "\n".join(lines) + "\n"


def rooflines_table(kernels: Iterable[Built]) -> str:
    """Lay out the least times, for what there are kernels for."""
    sequences = {
        (one.capability, one.kind, int(one.kernel.split()[1]))
        for one in kernels
        if one.kernel.startswith("sequence")
    }
    lines = [
        "| card | dtype | N | H | launch | MFLOP | KB | least us |",
        "|---|---|---:|---:|---|---:|---:|---:|",
    ]
    for card in CARDS:
        for kind in card.products:
            for N, H in SIZES:
                fits = any(
                    (capability, name) == (card.capability, kind) and units >= H
                    for capability, name, units in sequences
                )
                lines += [
                    f"| {card.name} | {kind} | {N} | {H} "
                    f"| {'sequence' if sequence else 'step'} | {operations(N, H) / 1e6:.2f} "
                    f"| {transfers(N, H, kind, sequence=sequence) / 1e3:.0f} "
                    f"| {roofline(card, N, H, kind, sequence=sequence):.2g} |"
                    for sequence in ((False, True) if fits else (False,))
                ]
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """Return the page's text with both tables between their markers."""
    _, kernels = read()
    for (begin, end), table in (
        (KERNELS, kernels_table(kernels)),
        (ROOFLINES, rooflines_table(kernels)),
    ):
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


def main() -> None:
    """Write the page."""
    with replacing(PAGE, force=True) as temporary:
        temporary.write_text(page(PAGE.read_text()))


if __name__ == "__main__":
    main()
