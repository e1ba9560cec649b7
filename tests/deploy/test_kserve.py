"""The manifest for KServe."""

import subprocess
import sys

import kserve
import kubernetes.client
import pytest
import yaml
from kserve.constants.constants import KSERVE_KIND_INFERENCESERVICE, KSERVE_V1BETA1
from typer.testing import CliRunner

from bnlstm_deploy.cli.main import app
from bnlstm_deploy.deploy.kserve import MOUNT, Service, inference_service, manifest
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.serve.limits import Limits
from bnlstm_deploy.serve.settings import TOKEN_VARIABLE
from tests.deploy.commands import invoke

REQUIRED = ("--storage-uri", "pvc://models/digits", "--image", "registry.example/bnlstm-deploy")


def known(model):
    return set(model.attribute_map.values())


def fails(*arguments):
    """Return the one message of a command that ended with exit status 2."""
    code = "from bnlstm_deploy.cli.main import main; main()"
    command = [sys.executable, "-c", code, "deploy", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def container(content):
    (only,) = content["spec"]["predictor"]["containers"]
    return only


def test_all_fields_are_ones_that_kserve_and_kubernetes_have(exported):
    content = yaml.safe_load(invoke("kserve", exported / "layers.onnx", *REQUIRED).stdout)
    assert (content["apiVersion"], content["kind"]) == (
        KSERVE_V1BETA1,
        KSERVE_KIND_INFERENCESERVICE,
    )
    predictor = content["spec"]["predictor"]
    assert set(content) <= known(kserve.V1beta1InferenceService)
    assert set(content["spec"]) <= known(kserve.V1beta1InferenceServiceSpec)
    assert set(predictor) <= known(kserve.V1beta1PredictorSpec)
    assert set(container(content)) <= known(kubernetes.client.V1Container)


def test_the_text_is_the_content():
    service = Service("digits", "a: b # é 😀.onnx", "pvc://c/'f'", "image:1", memory="1", gpus=2)
    content = yaml.safe_load(manifest(service))
    assert content == inference_service(service)
    assert container(content)["resources"]["limits"]["memory"] == "1"
    assert container(content)["resources"]["requests"]["nvidia.com/gpu"] == "2"
    assert "cuda" in container(content)["args"]


@pytest.mark.parametrize("native", [True, False])
def test_the_arguments_are_those_of_serve(exported, monkeypatch, native):
    calls = []
    monkeypatch.setattr("bnlstm_deploy.serve.server.serve", lambda *a, **k: calls.append((a, k)))
    service = Service("mine", "layers.onnx", "pvc://models", "image", native=native)
    only = container(inference_service(service))
    arguments = [argument.replace(MOUNT, str(exported)) for argument in only["args"]]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (((engines, _), places),) = calls
    for engine in engines:
        engine.close()
    assert [engine.name for engine in engines] == ["mine"]
    assert [bool(engine.native) for engine in engines] == [native]
    ports = {port["name"]: port["containerPort"] for port in only["ports"]}
    assert places == {
        "host": "0.0.0.0",
        "http_port": ports["http1"],
        "grpc_port": ports["h2c"],
    }
    assert only["readinessProbe"]["httpGet"]["port"] == ports["http1"]


def test_kubernetes_waits_for_requests_that_were_accepted():
    """A server that is told to stop answers for as long as a request may take."""
    content = inference_service(Service("mine", "layers.onnx", "pvc://models", "image"))
    grace = content["spec"]["predictor"]["terminationGracePeriodSeconds"]
    assert 2 * Limits().timeout <= grace <= 120


def test_a_file_is_replaced_only_by_force(exported, tmp_path):
    command = ("kserve", exported / "layers.onnx", *REQUIRED, "-o", tmp_path / "layers.yaml")
    assert "Wrote" in invoke(*command).output
    with pytest.raises(InputError, match="replace it by force"):
        invoke(*command)
    invoke(*command, "--force", "--max-replicas", "3")
    content = yaml.safe_load((tmp_path / "layers.yaml").read_text())
    assert content["spec"]["predictor"]["maxReplicas"] == 3


@pytest.mark.parametrize("native", [True, False])
def test_what_is_to_run_is_said_and_written(exported, tmp_path, native):
    options = ("-o", tmp_path / "layers.yaml", *(() if native else ("--no-native",)))
    output = invoke("kserve", exported / "layers.onnx", *REQUIRED, *options).output
    assert ("native kernel" in output) is native
    assert ("function body: native=False" in " ".join(output.split())) is not native
    arguments = container(yaml.safe_load((tmp_path / "layers.yaml").read_text()))["args"]
    assert ("--no-native" in arguments) is not native


@pytest.mark.parametrize("name", ["Digits", "9digits", "digits-", "a_b", "a.b", "a" * 64, ""])
def test_names_that_kubernetes_refuses(name):
    with pytest.raises(InputError, match="Kubernetes service"):
        Service(name, "m.onnx", "pvc://c", "image")


@pytest.mark.parametrize(
    "numbers",
    [
        {"min_replicas": -1},
        {"min_replicas": 2},
        {"min_replicas": 0, "max_replicas": 0},
        {"gpus": -1},
    ],
)
def test_numbers_out_of_range(numbers):
    with pytest.raises(InputError, match="pass"):
        Service("digits", "m.onnx", "pvc://c", "image", **numbers)


def test_wrong_use_is_one_message(exported, tmp_path):
    assert "--storage-uri" in fails("kserve", exported / "layers.onnx")
    (tmp_path / "no.onnx").write_text("text")
    assert "no.onnx" in fails("kserve", tmp_path / "no.onnx", *REQUIRED)
    model = exported / "layers.onnx"
    assert "Kubernetes service" in fails("kserve", model, *REQUIRED, "--name", "A_b")


def test_the_token_comes_from_a_secret():
    service = Service("digits", "m.onnx", "pvc://claim/m", "image:1", token_secret="door")
    parsed = yaml.safe_load(manifest(service))
    (container,) = parsed["spec"]["predictor"]["containers"]
    (variable,) = (v for v in container["env"] if v["name"] == TOKEN_VARIABLE)
    assert variable["valueFrom"] == {"secretKeyRef": {"name": "door", "key": "token"}}
