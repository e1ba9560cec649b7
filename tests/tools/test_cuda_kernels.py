"""What docs/kernels.json says of the kernels for GPUs; `make kernels` writes it."""

import json

from tools.cuda_kernels import KINDS, OUTPUT, SHARED, Built, fits, source_hash, wanted

FACTS = json.loads(OUTPUT.read_text())
BUILT = [Built(**entry) for entry in FACTS["kernels"]]


def test_it_is_of_the_kernels_as_they_are():
    assert FACTS["source_sha256"] == source_hash(), "run make kernels"


def test_all_that_is_wanted_is_there_or_named():
    there = {(one.kernel, one.kind, one.capability) for one in BUILT}
    assert len(there) == len(BUILT)
    left_out = {tuple(words.partition(":")[0].split(", ")) for words in FACTS["left_out"]}
    left_out = {(kernel, kind, int(capability)) for kernel, kind, capability in left_out}
    assert there | left_out == {*wanted()}
    assert not there & left_out


def test_nothing_spills_and_everything_fits():
    for one in BUILT:
        assert one.spilled == 0
        assert one.registers <= 255
        assert fits(one)


def test_every_architecture_can_run_any_size():
    """By `step`, if not by `sequence`."""
    there = {(one.kernel, one.kind, one.capability) for one in BUILT}
    for capability in SHARED:
        for kernel in ("input_part", "step"):
            kinds = {kind for name, kind, of in there if (name, of) == (kernel, capability)}
            assert kinds == {*KINDS} if capability > 75 else {"float32", "float16"} <= kinds
