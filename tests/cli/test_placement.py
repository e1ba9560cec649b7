"""bnlstm-deploy inspect --placement, as a user would use it."""

import json

import onnx
import pytest
from onnx import parser

from bnlstm_deploy.export import export
from bnlstm_deploy.nn import BNLSTM
from tests.cli.test_main import fails, run
from tests.models import randomize

PLACEMENT = ("--placement", "cuda")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with exports of one layer, and graphs that this package did not write."""
    folder = tmp_path_factory.mktemp("placement")
    model = randomize(BNLSTM(2, 4, max_length=3))
    export(model, folder / "scan.onnx", form="scan")
    export(model, folder / "unrolled.onnx", form="unrolled", length=3)
    graph = "g (float16 x) => (float16[n] y) { y = Range (x, x, x) }"
    header = '<ir_version: 10, opset_import: ["": 20]>'
    onnx.save(parser.parse_model(header + graph), folder / "range.onnx")
    (folder / "text.onnx").write_text("not a model")
    return folder


def test_a_graph_with_kernels_for_all(folder):
    result = run(folder, "inspect", "unrolled.onnx", *PLACEMENT)
    assert result.returncode == 0, result.stderr
    assert "Sigmoid" in result.stdout
    assert "nodes have CUDA kernels; can be captured as a CUDA graph\n" in result.stdout


def test_a_graph_that_cannot_be_captured(folder):
    result = run(folder, "inspect", "scan.onnx", *PLACEMENT)
    assert result.returncode == 0, result.stderr
    last = result.stdout.splitlines()[-1]
    assert "nodes have CUDA kernels; cannot be captured as a CUDA graph: " in last
    assert "If" in last
    assert "Scan" in last


def test_a_node_without_a_kernel_exits_1(folder):
    result = run(folder, "inspect", "range.onnx", *PLACEMENT)
    assert result.returncode == 1, result.stderr
    assert "no CUDA kernel of Range for float16" in result.stdout
    assert result.stdout.endswith("1 of 1 nodes has no CUDA kernel\n")
    result = run(folder, "inspect", "range.onnx", *PLACEMENT, "--json")
    assert result.returncode == 1
    facts = json.loads(result.stdout)["placement"]
    assert (facts["provider"], facts["missing"], facts["captures"]) == ("cuda", 1, False)
    (node,) = facts["nodes"]
    assert (node["op"], node["dtypes"]) == ("Range", {"T": "float16"})
    assert node["status"] == "no kernel"
    assert "OperatorKernels.md" in facts["source"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scan.onnx", "--placement", "tpu"), "there is a table of kernels of: cuda"),
        (("nowhere.onnx", *PLACEMENT), "nowhere.onnx does not exist"),
        (("text.onnx", *PLACEMENT), "text.onnx is not an ONNX model"),
        (("checkpoint", *PLACEMENT), "--placement is for exported .onnx files; checkpoint is none"),
    ],
)
def test_bad_input_is_one_message(folder, arguments, message):
    assert fails(run(folder, "inspect", *arguments), message)
