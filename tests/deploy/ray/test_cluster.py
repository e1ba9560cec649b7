"""The application on a Ray cluster of three nodes, in a network namespace of its own."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.serve.servers import COMMAND, export_small

pytestmark = pytest.mark.slow

NODES, CLOSE = 3, 1e-5
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's own seconds are too few on a busy machine: it kills a proxy that is about to start.
    "RAY_gcs_server_port_wait_time_s": "600",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
}


def isolated(*command):
    """Return the command, in a network namespace that has only `lo`: Ray binds an address of it."""
    return ["unshare", "-rn", "sh", "-c", 'ip link set lo up; exec "$@"', "-", *command]


@pytest.fixture(scope="module", autouse=True)
def namespace():
    """Skip, or fail in CI, where there can be no such namespace."""
    reason = "unshare or ip is not installed"
    if shutil.which("unshare") and shutil.which("ip"):
        tried = subprocess.run(isolated("true"), capture_output=True, text=True, check=False)
        reason = tried.stderr if tried.returncode else ""
    if reason and os.environ.get("CI"):
        pytest.fail(f"no network namespace: {reason}")
    if reason:
        pytest.skip(f"no network namespace: {reason}")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An exported model."""
    return export_small(tmp_path_factory.mktemp("ray") / "small.onnx")


@pytest.fixture(scope="module")
def seen(model, namespace):
    """What the driver saw, of an application that it started from the command's config file."""
    config = model.with_name("config.json")
    options = ("--min-replicas", str(NODES), "--threads", "1", "-o", str(config))
    subprocess.run(
        [*COMMAND, "deploy", "ray", str(model), *options], env=ENVIRONMENT, check=True, timeout=120
    )
    driver = (sys.executable, "-m", "tests.deploy.ray.driver", str(model), str(config))
    result = subprocess.run(
        isolated(*driver),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, result.stderr[-5000:]
    return json.loads(lines[-1].removeprefix("RESULT "))


def test_the_ingress_speaks_the_protocol(seen):
    found = seen["protocol"]
    assert found["live"]
    assert found["ready"]
    assert found["inputs"][0] == "input"
    assert max(found["triton"], found["client"]) < CLOSE
    assert (found["not json"], found["no model"], found["no path"]) == (400, 404, 404)


def test_load_is_on_all_replicas_and_in_batches(seen):
    found = seen["load"]
    assert found["worst"] < CLOSE
    assert len(found["replicas"]) == NODES
    assert all(inferences > executions for inferences, executions in found["replicas"].values())


def test_a_sequence_stays_with_its_replica(seen):
    assert seen["sequences"]["worst"] < CLOSE


def test_no_stream_is_lost_with_a_node(seen):
    # Whether a call was under way on the node, and was repeated, is luck.
    assert seen["killed"]["streams"] < CLOSE, seen["killed"]["failures"]


def test_a_sequence_of_a_lost_node_is_over_and_never_wrong(seen):
    found = seen["killed"]
    assert 0 < found["lost sequences"] < 30
    assert max(found["kept sequences"], found["new sequence"]) < CLOSE


def test_plain_clients_get_no_wrong_answer_of_a_sequence(seen):
    found = seen["killed"]["plain"]
    assert sum(done for done, *_ in found) >= 200
    assert max(error for _, _, *errors in found for error in errors) < CLOSE


def test_the_command_answers_and_ends_on_sigterm(seen):
    found = seen["command"]
    assert found["worst"] < CLOSE
    assert (found["status"], found["stopped"]) == (0, True)
