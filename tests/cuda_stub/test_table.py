"""What the table says; whether it is true, test_cuda_stub.py counts."""

import itertools

import pytest

from tests.cuda_stub.cases import DTYPES, GIVEN, KINDS, exists
from tests.cuda_stub.launches import PAGE, TABLE, dumps, load, page
from tests.cuda_stub.measure import CAPTURED

ROWS = load()
WHAT = ("kernels", "products", "D2D", "H2D", "D2H", "waits")


def key(row):
    return row.dtype, row.form, row.folding, row.of, row.layers, row.directions, row.given


def test_it_has_every_file_and_every_input():
    expected = [
        (dtype, kind.form, kind.folding, kind.of, layers, directions, given)
        for kind, dtype, layers, directions, given in itertools.product(
            KINDS, DTYPES, (1, 2), (1, 2), GIVEN
        )
        if exists(kind, dtype, layers, directions)
    ]
    assert [key(row) for row in ROWS] == expected


def test_the_page_and_the_file_are_as_generated():
    text = PAGE.read_text()
    assert page(text, ROWS) == text
    assert TABLE.read_text() == dumps(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(map(str, key(row))))
def test_what_a_timestep_costs(row):
    by_key = {key(other): other for other in ROWS}
    single = by_key[*key(row)[:4], 1, 1, row.given]
    stateless = by_key[*key(row)[:6], row.given.removesuffix("state").removesuffix(", ")]
    assert row.step == {what: row.layers * row.directions * single.step[what] for what in WHAT}
    assert row.step == stateless.step
    # no timestep waits for the CPU, in any form
    assert (row.step["H2D"], row.step["D2H"], row.step["waits"]) == (0, 0, 0)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(map(str, key(row))))
def test_what_reduced_products_cost(row):
    """Two casts a timestep, and an Add where a Gemm copies what it adds to; nothing of ours."""
    (wide,) = (other for other in ROWS if key(other) == ("float32", *key(row)[1:]))
    chains = row.layers * row.directions * (row.dtype != "float32" and row.form != "native")
    added = chains * (row.form == "unrolled" and row.folding == "materialized")
    difference = {"kernels": 2 * chains + added, "D2D": -added}
    assert row.step == {what: wide.step[what] + difference.get(what, 0) for what in WHAT}
    assert (row.cpu, row.memcpy, row.graph) == (wide.cpu, wide.memcpy, wide.graph)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(map(str, key(row))))
def test_which_forms_a_cuda_graph_takes(row):
    if row.form == "unrolled":
        assert row.graph == CAPTURED
        assert row.memcpy == row.rest["H2D"] == row.rest["D2H"] == 0
        # only of shapes, which are done before the graph's work and copied nowhere
        assert row.cpu.keys() <= {"Concat"}
    elif row.form == "native":
        assert row.graph == CAPTURED
        assert row.memcpy == row.rest["H2D"] == row.rest["D2H"] == 0
        assert row.cpu.keys() <= {"Add", "Gather"}  # of shapes
        chains = row.layers * row.directions
        steps = chains if row.folding == "step" else 0
        assert row.step == dict.fromkeys(row.step, 0) | {"kernels": steps}
    elif row.form == "lstm":
        assert "all compute graph nodes have not been partitioned to the CUDA" in row.graph
        assert row.rest["cuDNN"] == row.layers * row.directions
        assert row.memcpy > 0
    else:
        assert "has control flow nodes which can't be supported" in row.graph
