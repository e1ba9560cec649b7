"""python -m tools.placement, as a user would use it."""

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import parser

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from tests.models import randomize


def run(*arguments):
    command = [sys.executable, "-m", "tools.placement", *map(str, arguments)]
    root = Path(__file__).parents[3]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with exports of one layer, and graphs that this package did not write."""
    folder = tmp_path_factory.mktemp("placement")
    model = randomize(BNLSTM(2, 4, max_length=3))
    export(model, folder / "scan.onnx", form="scan")
    export(model, folder / "native.onnx", form="scan", target="cuda")
    export(model, folder / "float64.onnx", form="scan", target="cuda", dtype=torch.float64)
    export(model, folder / "unrolled.onnx", form="unrolled", length=3)
    graph = "g (float16 x) => (float16[n] y) { y = Range (x, x, x) }"
    header = '<ir_version: 10, opset_import: ["": 20]>'
    onnx.save(parser.parse_model(header + graph), folder / "range.onnx")
    (folder / "text.onnx").write_text("not a model")
    return folder


def test_a_graph_with_kernels_for_all(folder):
    result = run(folder / "unrolled.onnx")
    assert result.returncode == 0, result.stderr
    assert "Sigmoid" in result.stdout
    assert "nodes have CUDA kernels; can be captured as a CUDA graph\n" in result.stdout


def test_a_graph_that_cannot_be_captured(folder):
    result = run(folder / "scan.onnx")
    assert result.returncode == 0, result.stderr
    last = result.stdout.splitlines()[-1]
    assert "nodes have CUDA kernels; cannot be captured as a CUDA graph: " in last
    assert "If" in last
    assert "Scan" in last


def test_a_graph_for_the_native_kernel(folder):
    result = run(folder / "native.onnx", "--native")
    assert result.returncode == 0, result.stderr
    assert "BNLSTM" in result.stdout
    assert "Scan" not in result.stdout
    assert "nodes have CUDA kernels; can be captured as a CUDA graph\n" in result.stdout
    result = run(folder / "scan.onnx", "--native")  # made for the CPU
    assert result.returncode == 1
    assert "nodes on the CPU read lengths, too" in " ".join(result.stdout.replace("│", " ").split())
    result = run(folder / "float64.onnx", "--native")
    assert "Scan" in result.stdout.splitlines()[-1]


def test_a_node_without_a_kernel_exits_1(folder):
    result = run(folder / "range.onnx")
    assert result.returncode == 1, result.stderr
    assert "no CUDA kernel of Range for float16" in result.stdout
    assert result.stdout.endswith("1 of 1 nodes has no CUDA kernel\n")
    result = run(folder / "range.onnx", "--json")
    assert result.returncode == 1
    facts = json.loads(result.stdout)
    assert (facts["missing"], facts["captures"]) == (1, False)
    (node,) = facts["nodes"]
    assert (node["op"], node["dtypes"]) == ("Range", {"T": "float16"})
    assert node["status"] == "no kernel"
    assert "OperatorKernels.md" in facts["source"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere.onnx", "does not exist"), ("text.onnx", "is not an ONNX model")],
)
def test_bad_input_is_one_message(folder, name, message):
    result = run(folder / name)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
