"""The manifest for KServe."""

import json
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from bnlstm_deploy.access import TOKEN_VARIABLE
from bnlstm_deploy.cli.main import app
from bnlstm_deploy.deploy.kserve import MOUNT, Service, inference_service, manifest
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.serve.limits import Limits
from tests.deploy.commands import invoke

REQUIRED = ("--storage-uri", "pvc://models/digits", "--image", "registry.example/bnlstm-deploy")


SCHEMAS = """
import json
import kserve
import kubernetes.client
from kserve.constants.constants import KSERVE_KIND_INFERENCESERVICE, KSERVE_V1BETA1

models = (
    kserve.V1beta1InferenceService,
    kserve.V1beta1InferenceServiceSpec,
    kserve.V1beta1PredictorSpec,
    kubernetes.client.V1Container,
)
fields = {model.__name__: [*model.attribute_map.values()] for model in models}
print(json.dumps([KSERVE_V1BETA1, KSERVE_KIND_INFERENCESERVICE, fields]))
"""
"""Prints what KServe knows, in a process of its own: tritonclient cannot be imported beside it."""


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
    command = [sys.executable, "-c", SCHEMAS]
    schemas = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    version, kind, known = json.loads(schemas.stdout)
    content = yaml.safe_load(invoke("kserve", exported / "layers.onnx", *REQUIRED).stdout)
    assert (content["apiVersion"], content["kind"]) == (version, kind)
    assert content.keys() <= set(known["V1beta1InferenceService"])
    assert content["spec"].keys() <= set(known["V1beta1InferenceServiceSpec"])
    assert content["spec"]["predictor"].keys() <= set(known["V1beta1PredictorSpec"])
    assert container(content).keys() <= set(known["V1Container"])


def test_a_pod_has_time_to_answer_probes_and_to_leave(exported):
    content = yaml.safe_load(invoke("kserve", exported / "layers.onnx", *REQUIRED).stdout)
    only = container(content)
    assert only["readinessProbe"]["timeoutSeconds"] == 5
    assert only["livenessProbe"]["timeoutSeconds"] == 5
    assert only["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
    port = content["spec"]["predictor"]["annotations"]["prometheus.io/port"]
    assert int(port) == only["ports"][0]["containerPort"]


@pytest.mark.parametrize(("cpu", "threads"), [("1", 1), ("3.9", 3), ("500m", 1), ("4000m", 4)])
def test_threads_are_the_cores_that_it_has(cpu, threads):
    assert Service("digits", "d.onnx", "pvc://c", "image", cpu=cpu).threads == threads


@pytest.mark.parametrize("cpu", ["", "two", "-1", "1k"])
def test_cores_are_a_number(cpu):
    with pytest.raises(InputError, match="pass cores such as 2"):
        Service("digits", "d.onnx", "pvc://c", "image", cpu=cpu)


def test_the_limits_follow_from_the_memory(exported):
    service = Service("mine", "layers.onnx", "pvc://models", "image", memory="2Gi")
    arguments = container(inference_service(service))["args"]
    for option in ("--max-run", "--max-pending"):
        assert int(arguments[arguments.index(option) + 1]) == 512 * 2**20


@pytest.mark.parametrize("memory", ["", "much", "1", "100Mi", "-1Gi", "1.5Gi"])
def test_memory_is_enough_for_a_server(memory):
    with pytest.raises(InputError, match="pass at least 512Mi"):
        Service("digits", "d.onnx", "pvc://c", "image", memory=memory)


def test_several_replicas_are_warned_of_sequences():
    one, two = (
        manifest(Service("digits", "d.onnx", "pvc://c", "image", max_replicas=number))
        for number in (1, 2)
    )
    assert "sequence_id" in two
    assert "sequence_id" not in one


def test_the_text_is_the_content():
    service = Service("digits", "a: b # é 😀.onnx", "pvc://c/'f'", "image:1", memory="2G", gpus=2)
    content = yaml.safe_load(manifest(service))
    assert content == inference_service(service)
    assert container(content)["resources"]["limits"]["memory"] == "2G"
    assert container(content)["resources"]["requests"]["nvidia.com/gpu"] == "2"
    assert "cuda" in container(content)["args"]


@pytest.mark.parametrize("native", [True, False])
def test_the_arguments_are_those_of_serve(exported, monkeypatch, native):
    calls = []
    monkeypatch.setattr("bnlstm_deploy.serve.server.serve", calls.append)
    service = Service("mine", "layers.onnx", "pvc://models", "image", native=native, cpu="2")
    only = container(inference_service(service))
    arguments = [argument.replace(MOUNT, str(exported)) for argument in only["args"]]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (options,) = calls
    assert options.models == [f"mine={exported / 'layers.onnx'}"]
    assert (options.native, options.threads) == (native, 2)
    ports = {port["name"]: port["containerPort"] for port in only["ports"]}
    assert (options.host, options.http_port, options.grpc_port) == (
        *("0.0.0.0", ports["http1"], ports["h2c"]),
    )
    assert options.settings.hosts is None
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
