"""bnlstm-deploy serve: its options, and what it says when it cannot start."""

import inspect
import socket
import subprocess
import sys
from dataclasses import fields

import pytest

from bnlstm_deploy.cli.options import grouped
from bnlstm_deploy.cli.serve import serve
from bnlstm_deploy.serve import Limits
from tests.serve.servers import COMMAND, export_small, running


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """An exported model."""
    return export_small(tmp_path_factory.mktemp("serve") / "small.onnx")


@pytest.fixture(scope="module")
def busy():
    """A port that is in use."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield str(listening.getsockname()[1])


def test_every_limit_is_an_option_with_its_default():
    options = inspect.signature(grouped(serve)).parameters
    for limit in fields(Limits):
        assert options[limit.name].default == limit.default


def test_it_listens_on_this_machine_only_and_without_torch(model_path):
    with running(model_path, f"again={model_path}") as server:
        assert server.http.startswith("127.0.0.1:")
        assert server.grpc.startswith("127.0.0.1:")
        assert server.wait_for("ready")["models"] == ["again/1", "small/1"]
        with open(f"/proc/{server.process.pid}/maps") as maps:  # noqa: PTH123
            libraries = maps.read()
    assert "onnxruntime" in libraries
    assert "libtorch" not in libraries


FAULTS = {
    "missing": (["none.onnx"], "none.onnx does not exist"),
    "no ONNX": (["text.onnx"], "cannot load"),
    "twice": (["{model}", "small={model}"], "would both be version 1 of 'small'"),
    "provider": (["{model}", "--providers", "nonsense"], "'nonsense' is not part of"),
    "limit": (["{model}", "--max-batch", "0"], "--max-batch"),
    "port": (["{model}", "--http-port", "{busy}", "--grpc-port", "0"], "port {busy} of 127.0.0.1"),
    "gRPC's port": (["{model}", "--http-port", "0", "--grpc-port", "{busy}"], "127.0.0.1:{busy}"),
    "host": (["{model}", "--host", "192.0.2.1"], "192.0.2.1"),
    "token": (["{model}", "--token-file", "none"], "none cannot be read"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_cannot_be_served_is_one_message(case, model_path, busy, tmp_path):
    (tmp_path / "text.onnx").write_text("no ONNX file")
    arguments, message = FAULTS[case]
    values = {"model": model_path, "busy": busy}
    result = subprocess.run(
        [*COMMAND, "serve", *(argument.format(**values) for argument in arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 2
    assert message.format(**values) in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_file_of_someone_else_is_refused(tmp_path):
    code = (
        "import onnx; from onnx import helper, TensorProto as T;"
        "x = helper.make_tensor_value_info('x', T.FLOAT, [1]);"
        "y = helper.make_tensor_value_info('y', T.FLOAT, [1]);"
        "g = helper.make_graph([helper.make_node('Abs', ['x'], ['y'])], 'g', [x], [y]);"
        "m = helper.make_model(g, opset_imports=[helper.make_opsetid('', 18)], ir_version=9);"
        "onnx.save(m, 'other.onnx')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    result = subprocess.run(
        [*COMMAND, "serve", "other.onnx"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 2
    assert "was not exported by bnlstm-deploy" in result.stderr


def test_a_model_that_cannot_be_warmed_up_ends_the_server(model_path):
    code = (
        "from bnlstm_deploy.cli.main import main\n"
        "from bnlstm_deploy.errors import RuntimeSessionError\n"
        "from bnlstm_deploy.serve import Engine\n"
        "def fail(engine): raise RuntimeSessionError('out of something')\n"
        "Engine.warm_up = fail\n"
        "main()\n"
    )
    ports = ["--http-port", "0", "--grpc-port", "0"]
    result = subprocess.run(
        [sys.executable, "-c", code, "serve", str(model_path), *ports],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 2
    assert "error: out of something" in result.stderr
    assert "Traceback" not in result.stderr
