"""What is said of the kernels for GPUs; `make kernels` writes it."""

import zipfile

import pytest

from bnlstm_deploy.native import library_path
from tools.cuda_facts import (
    CARDS,
    PAGE,
    Card,
    occupancy,
    operations,
    page,
    roofline,
    transfers,
)
from tools.cuda_kernels import (
    ALIGNED,
    FACTS,
    KINDS,
    OUTPUT,
    PORTABLE,
    SHARED,
    Built,
    Job,
    fits,
    read,
    source_hash,
    wanted,
)

SAYS, BUILT = read()
THERE = {one.job for one in BUILT}


def test_it_is_of_the_kernels_as_they_are():
    assert SAYS["source_sha256"] == source_hash(), "run make kernels"


def test_all_that_is_wanted_is_there_or_named():
    assert len(THERE) == len(BUILT)
    left_out = {tuple(words.partition(":")[0].split(", ")) for words in SAYS["left_out"]}
    missing = {(job.kernel, job.kind, str(job.capability)) for job in {*wanted()} - THERE}
    assert missing == left_out
    assert {*wanted()} >= THERE


def test_nothing_spills_and_everything_fits():
    for one in BUILT:
        assert one.spilled == 0
        assert one.registers <= 255
        assert fits(one)


def test_every_architecture_can_run_any_size_and_some_in_one_launch():
    for capability in SHARED:
        kinds = [*KINDS] if capability > 75 else ["float32", "float16"]
        for kind in kinds:
            for kernel in ("input_part", "step"):
                for unit, feature in ALIGNED[kernel]:
                    assert Job(kernel, kind, capability, unit, feature) in THERE
            assert Job("sequence 32", kind, capability, 4, 1) in THERE
            begin = "float32" if kind == "tf32" else kind
            assert Job("begin", begin, capability, 1, 1) in THERE
    for capability in (80, 90, 100):
        assert Job("sequence 128", "float16", capability, 4, 1) in THERE


def test_the_code_is_that_which_is_described_and_is_in_the_library():
    library = library_path().read_bytes()
    with zipfile.ZipFile(OUTPUT) as archive:
        names = {*archive.namelist()} - {FACTS}
        for one in BUILT:
            code = archive.read(f"{one.job.name}.cubin")
            assert len(code) == one.size
            assert code.startswith(b"\x7fELF")
            assert code in library, "run python -m bnlstm_deploy.native.build"
            names.remove(f"{one.job.name}.cubin")
            if one.capability == PORTABLE:
                assert b".target sm_80" in archive.read(f"{one.job.name}.ptx")
                names.remove(f"{one.job.name}.ptx")
        assert not names


def test_it_is_small():
    """What it adds to a wheel; the whole has to stay below 15 MB."""
    assert OUTPUT.stat().st_size < 4e6


def test_no_date_and_no_machine_is_in_the_archive():
    with zipfile.ZipFile(OUTPUT) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def built(**changes):
    facts = {
        **{"kernel": "step", "kind": "float32", "capability": 90, "unit": 4, "feature": 1},
        **{"tiles": {}, "warps": 4, "registers": 64, "spilled": 0, "shared": 0, "size": 1},
    }
    return Built(**facts | changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"registers": 32}, 1.0),  # 16 blocks of 4 warps
        ({"registers": 64}, 0.5),  # 2048 registers a warp: 32 warps
        ({"registers": 255}, 8 / 64),  # 8192 a warp: 8 warps
        ({"registers": 65}, 28 / 64),  # 2304 a warp: 28 warps
        ({"registers": 32, "shared": 75 << 10}, 3 * 4 / 64),  # 76 KiB of 228, one reserved
        ({"registers": 32, "warps": 1, "capability": 75}, 16 / 32),  # 16 blocks at most
    ],
)
def test_occupancy_by_hand(changes, expected):
    assert occupancy(built(**changes)) == expected


def test_rooflines_by_hand():
    assert operations(2, 3) == 2 * 2 * 12 * 3
    # part (2, 12), y (2, 3), scales of 12, 3 and 3; and weights, h, c in and out, h out
    streamed = 4 * (24 + 6 + 18)
    assert transfers(2, 3, "float32", sequence=True) == streamed
    assert transfers(2, 3, "float32", sequence=False) == streamed + 4 * (36 + 6 + 18)
    card = Card("", 90, memory=1e6, products={"float32": 1e6})
    assert roofline(card, 2, 3, "float32", sequence=True) == streamed
    assert {card.capability for card in CARDS} <= SHARED.keys()


def test_the_page_is_as_generated():
    text = PAGE.read_text()
    assert page(text) == text, "run python -m tools.cuda_facts"
