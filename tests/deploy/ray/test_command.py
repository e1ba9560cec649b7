"""`bnlstm-deploy deploy ray`: its options, and what it says when it cannot start."""

import inspect
import json
import socket
import sys
from dataclasses import fields
from types import SimpleNamespace

import pytest

from bnlstm_deploy.cli.deploy_ray import ray
from bnlstm_deploy.cli.options import grouped
from bnlstm_deploy.deploy.ray_config import Options, absolute
from bnlstm_deploy.errors import BnlstmError
from bnlstm_deploy.serve import Limits
from tests.deploy.commands import invoke
from tests.serve.servers import export_small

SECRET = "not-for-files"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An exported model."""
    return export_small(tmp_path_factory.mktemp("ray") / "small.onnx")


def test_every_limit_is_an_option_with_its_default():
    options = inspect.signature(grouped(ray)).parameters
    for limit in fields(Limits):
        assert options[limit.name].default == limit.default


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, of pydantic
def test_the_config_file_is_ray_serves_and_holds_no_token(model, tmp_path, monkeypatch):
    monkeypatch.setenv("BNLSTM_DEPLOY_TOKEN", SECRET)
    file = tmp_path / "config.json"
    limits = ("--max-batch", "8", "--min-replicas", "2", "--max-replicas", "5")
    assert invoke("ray", f"mine={model}", "-o", file, *limits).exit_code == 0
    assert SECRET not in file.read_text()
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(json.loads(file.read_text()))
    assert schema.http_options.host == "127.0.0.1"
    options = Options.model_validate(schema.applications[0].args)
    assert options.models == [f"mine={model}"]
    assert options.limits == Limits(max_batch=8)
    assert (options.min_replicas, options.max_replicas) == (2, 5)
    assert options.require_token


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, of pydantic
@pytest.mark.parametrize("native", [True, False])
def test_replicas_run_natively_unless_told_not_to(model, tmp_path, native):
    from bnlstm_deploy.deploy.ray_app import Replica

    file = tmp_path / "config.json"
    invoke("ray", model, "-o", file, *(() if native else ("--no-native",)))
    (application,) = json.loads(file.read_text())["applications"]
    # An object of the class itself would answer Ray when it is deleted.
    replica = SimpleNamespace()
    constructor = Replica.func_or_class.__mro__[1].__init__
    constructor(replica, Options.model_validate(application["args"]), None)
    for engine in replica.engines:
        engine.close()
    assert [bool(engine.native) for engine in replica.engines] == [native]


def test_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("a.onnx") == str(tmp_path / "a.onnx")
    assert absolute("b=a.onnx") == f"b={tmp_path / 'a.onnx'}"


FAULTS = {
    "missing": (["none.onnx"], "none.onnx does not exist"),
    "provider": (["{model}", "--providers", "nonsense"], "nonsense"),
    "replicas": (["{model}", "--min-replicas", "3", "--max-replicas", "2"], "--max-replicas is 2"),
    "in the way": (["{model}", "-o", "{model}"], "exists"),
    "token": (["{model}", "--token-file", "none"], "none cannot be read"),
    "name": (["{model}", "--name", "a b"], "cannot be called 'a b'"),
    "port": (["{model}", "--http-port", "{port}"], "cannot listen on port {port}"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_cannot_be_deployed_is_refused_before_ray_starts(case, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "bnlstm_deploy.deploy.ray_run", None)  # it must not get there
    arguments, message = FAULTS[case]
    with socket.create_server(("127.0.0.1", 0)) as used:
        values = {"model": model, "port": used.getsockname()[1]}
        with pytest.raises(BnlstmError, match=message.format(**values)):
            invoke("ray", *(argument.format(**values) for argument in arguments))


def test_autoscaling_is_what_the_options_say(model):
    from bnlstm_deploy.deploy.ray_app import build

    arguments = {"min_replicas": 2, "max_replicas": 5, "target_ongoing_requests": 7.0}
    bound = build(Options(models=[str(model)], gpus=0.5, **arguments))._bound_deployment
    scaling = bound._deployment_config.autoscaling_config
    assert {name: getattr(scaling, name) for name in arguments} == arguments
    assert bound.ray_actor_options["num_gpus"] == 0.5
