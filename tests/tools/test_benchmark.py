import json
from itertools import chain

import pytest
import torch
import typer
from typer.testing import CliRunner

from bnlstm_deploy.runtime import Session
from tools import benchmark, forms, peers
from tools.peers import (
    FILES,
    LOADERS,
    ON_CUDA,
    SEQUENCES,
    WRITERS,
    WRITERS_ON_CUDA,
    Setup,
    Size,
)

pytestmark = pytest.mark.slow

FACTORED = [kind for kind in forms.KINDS if kind[1] == "factored"]


def run(*arguments):
    return CliRunner().invoke(benchmark.app, [str(argument) for argument in arguments])


def test_writes_the_figures_of_every_peer(tmp_path):
    path = tmp_path / "benchmark.json"
    result = run("--size", "2,5,3,4", "--threads", 1, "--seconds", 0, "--json", path)
    assert result.exit_code == 0, result.output
    report = json.loads(path.read_text())
    assert set(report["environment"]) == {
        *(
            "python",
            "torch",
            "onnxruntime",
            "numpy",
            "machine",
            "cores",
            "cpu",
            "gpu",
            "instruction_set",
        )
    }
    assert [case["size"] for case in report["cases"]] == [{"N": 2, "T": 5, "D": 3, "H": 4}]
    for case in report["cases"]:
        assert case["threads"] == 1
        assert case["rounds"] >= peers.MIN_ROUNDS
        assert [result["peer"] for result in case["results"]] == list(LOADERS)
    for figures in chain.from_iterable(case["results"] for case in report["cases"]):
        peer = figures.pop("peer")
        assert peer in result.stdout
        from_file = {name: figures.pop(name) for name in ("load_ms", "export_s", "file_mb")}
        assert all(value > 0 for value in figures.values()), peer
        if peer in {*WRITERS, *FILES}:
            assert all(value > 0 for value in from_file.values()), peer
        else:
            assert set(from_file.values()) == {None}, peer


def test_judges_what_is_to_be_reached_and_draws_it(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "OVER_H", [Size(1, 3, 1, 4)])
    monkeypatch.setattr(benchmark, "OVER_N", [Size(2, 3, 1, 2)])
    path = tmp_path / "benchmark.json"
    arguments = ("--size", "1,5,3,4", "--threads", 1, "--seconds", 0, "--json", path)
    result = run(*arguments, "--plots", tmp_path)
    assert result.exit_code == 0, result.output
    report = json.loads(path.read_text())
    (case,) = report["cases"]
    assert 0 <= case["errors"]["native"] <= 4 * case["errors"]["eager"] + 1e-7
    assert case["roof"]["weight_bytes"] == 4 * 4 * 4 * (4 + 3)
    assert case["roof"]["us_per_timestep"] > 0
    whats = [bar["what"] for bar in report["bars"]]
    assert whats[0] == "time / LSTM operator's"
    assert whats[-2:] == ["error / training model's", "call of one timestep / lstm operator's"]
    assert report["chunk"]["native_us"] > 0
    for bar in report["bars"]:
        met = bar["measured"] >= bar["bar"] if bar["least"] else bar["measured"] <= bar["bar"]
        assert bar["met"] == met
    assert [case["size"]["H"] for case in report["over_h"]] == [4]
    assert [case["size"]["N"] for case in report["over_n"]] == [2]
    assert all(result["peak_memory_mb"] is None for result in report["over_h"][0]["results"])
    for name in ("benchmark-h.svg", "benchmark-n.svg"):
        drawn = (tmp_path / name).read_text()
        assert all(peer in drawn for peer in LOADERS)
        assert "roof" in drawn


def test_measures_every_exact_form_of_a_variant(tmp_path):
    path = tmp_path / "forms.json"
    arguments = ("--forms", "--size", "2,5,3,4", "--threads", 1, "--seconds", 0, "--json", path)
    result = run(*arguments, "--variant", "input")
    assert result.exit_code == 0, result.output
    (case,) = json.loads(path.read_text())["cases"]
    assert case["variant"] == "input"
    assert case["rounds"] >= peers.MIN_ROUNDS
    kinds = [figures["kind"] for figures in case["results"]]
    assert kinds == [", ".join(kind) for kind in FACTORED]
    assert [figures["chosen"] for figures in case["results"]] == [False, True, False]
    assert min(figures["ratio"] for figures in case["results"]) == 1
    assert all(kind in result.stdout for kind in kinds)


@pytest.mark.parametrize(
    ("variant", "size", "expected"),
    [
        ("plain", Size(1, 5, 3, 4), FACTORED),
        ("full", Size(1, 256, 3, 4), forms.KINDS),
        ("full", Size(1, 257, 3, 4), forms.KINDS[:3]),
        ("full", Size(1, 100, 3, 999), FACTORED),
    ],
)
def test_leaves_out_what_is_no_form_of_its_own_or_too_large(variant, size, expected):
    assert list(forms.kinds(variant, size)) == expected


def test_stops_if_peers_that_should_be_equal_differ(monkeypatch, tmp_path, capsys):
    loaders = {peer: lambda setup: lambda x: x for peer in LOADERS}
    loaders["native"] = lambda setup: lambda x: x + 1
    monkeypatch.setattr(peers, "LOADERS", loaders)
    monkeypatch.setattr(peers, "peak_memory", lambda peer, setup: 1.0)
    setup = Setup(Size(2, 5, 3, 4), seed=0, threads=1, provider="cpu", folder=tmp_path)
    with pytest.raises(typer.Exit) as stopped:
        benchmark.measure(setup, export_s={}, seconds=0)
    assert stopped.value.exit_code == 1
    assert "native - eager: 1.0e+00" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "1,2,3"), "--size is '1,2,3'; pass N,T,D,H"),
        (("--size", "1,2,3,x"), "--size is '1,2,3,x'; pass N,T,D,H"),
        (("--size", "1,2,3,0"), "--size is '1,2,3,0'; pass N,T,D,H"),
        (("--threads", "0"), "--threads is 0; pass at least 1"),
        (("--seed", "-1"), "--seed is -1; pass at least 0"),
        (("--forms", "--variant", "x"), "--variant is 'x'; pass one of plain, shared, input, full"),
        (("--provider", "abacus"), "'abacus' is not part of the onnxruntime installed"),
        (("--json", "missing/benchmark.json"), "the folder missing does not exist"),
        (("--plots", "missing"), "--plots is missing; pass a folder that exists"),
        (("--plots", ".", "--forms"), "--plots is .; pass a folder that exists, and only peers"),
    ],
    ids=str,
)
def test_refuses_what_it_cannot_measure_in_one_line(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_peers_on_cuda():
    small, large = (peers.loaders("cuda", Size(2, 5, 3, hidden)) for hidden in (64, 132))
    assert small.keys() == ON_CUDA.keys() | (LOADERS.keys() - {"native", "function body"})
    assert small.keys() - large.keys() == SEQUENCES.keys()
    assert next(iter(small)) == "native"
    writers = peers.writers("cuda")
    assert writers.keys() == WRITERS_ON_CUDA.keys() | (WRITERS.keys() - {"deployed"})
    assert {FILES.get(peer, peer) for peer in ON_CUDA} == WRITERS_ON_CUDA.keys()


def test_what_is_deployed_on_cuda(tmp_path):
    found = {}
    for name, write in WRITERS_ON_CUDA.items():
        write(Size(2, 5, 3, 4), 0, tmp_path / "m.onnx")
        metadata = Session(tmp_path / "m.onnx").metadata
        found[name] = metadata.form, metadata.length, metadata.target, metadata.dtype
        (tmp_path / "m.onnx").unlink()
    assert found == {
        "deployed": ("scan", None, "cuda", "float32"),
        "float16": ("scan", None, "cuda", "float16"),
        "unrolled": ("unrolled", 5, "cuda", "float32"),
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_benchmark_says_so():
    result = run("--provider", "cuda")
    assert result.exit_code == 2
    assert "'cuda'" in result.stderr
