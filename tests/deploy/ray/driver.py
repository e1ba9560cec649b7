"""A Ray cluster of three nodes and its clients, in one process; prints what was seen as JSON."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray
import tritonclient.http
from ray import serve
from ray._private import services
from ray.cluster_utils import Cluster
from ray.serve._private import api
from ray.serve.schema import ServeDeploySchema
from tritonclient.utils import InferenceServerException

from bnlstm_deploy.client import Client
from bnlstm_deploy.client import client as client_module
from bnlstm_deploy.deploy.ray_app import build
from bnlstm_deploy.deploy.ray_config import Options
from bnlstm_deploy.errors import SequenceError
from bnlstm_deploy.runtime import Session
from tests.serve.servers import COMMAND

NODES, PORT = 3, 8000
URL = f"http://127.0.0.1:{PORT}"
MODEL = "small"


def wait_for_node(*arguments, get_node=services.get_node):
    """Wait until a node is known, however long: Ray itself gives up after 30 s."""
    while True:
        try:
            return get_node(*arguments)
        except RuntimeError:
            time.sleep(0.1)


def start(config_file):
    """Start the cluster, and the application that the config file describes."""
    services.get_node = wait_for_node
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "object_store_memory": 100_000_000,
            "include_dashboard": False,
        },
    )
    workers = [
        cluster.add_node(num_cpus=1, object_store_memory=100_000_000) for _ in range(NODES - 1)
    ]
    cluster.wait_for_nodes(timeout=600)
    ray.init(address=cluster.address, log_to_driver=False)
    schema = ServeDeploySchema.model_validate(json.loads(Path(config_file).read_text()))
    (application,) = schema.applications
    assert application.import_path == "bnlstm_deploy.deploy.ray_app:build"
    api.HTTP_PROXY_TIMEOUT = 300  # seconds; there is no option for it
    # One machine has one such port, so the proxy is that of the head node.
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": schema.http_options.host, "port": schema.http_options.port},
    )
    # The function body is slow enough for requests to meet, and for a node to die among them.
    options = Options.model_validate(application.args | {"native": False})
    # However long all this takes here, only the loss of a node ends a sequence.
    options.limits = replace(options.limits, sequence_idle=3600.0)
    serve.run(build(options), name=application.name, route_prefix=application.route_prefix)
    return cluster, workers


def status_of(path, body=None):
    try:
        with urllib.request.urlopen(URL + path, body, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def replicas():
    """Return the inferences and executions of replicas, by when their processes started."""
    found = {}
    for _ in range(40):
        with urllib.request.urlopen(f"{URL}/metrics", timeout=30) as answer:
            text = answer.read().decode()

        def value(name, text=text):
            return float(re.search(rf"^{name}\S* (\S+)$", text, re.MULTILINE)[1])

        key = str(value("process_start_time_seconds"))
        names = ("bnlstm_inferences_total", "bnlstm_executions_total")
        found[key] = [value(name) for name in names]
    return found


def data(seed, time=12):
    return np.random.default_rng(seed).standard_normal((1, time, 3)).astype(np.float32)


def distance(answer, session, seed, time=12):
    return float(np.abs(answer - session(data(seed, time))[0]).max())


def protocol(session):
    x = data(0)
    http = tritonclient.http.InferenceServerClient(f"127.0.0.1:{PORT}")
    tensor = tritonclient.http.InferInput("input", x.shape, "FP32")
    tensor.set_data_from_numpy(x)
    with Client(URL, MODEL) as client:
        return {
            "live": http.is_server_live(),
            "ready": http.is_server_ready(),
            "inputs": [entry["name"] for entry in http.get_model_metadata(MODEL)["inputs"]],
            "triton": distance(http.infer(MODEL, [tensor]).as_numpy("output"), session, 0),
            "client": distance(client.run(x)[0], session, 0),
            "not json": status_of(f"/v2/models/{MODEL}/infer", b"no"),
            "no model": status_of("/v2/models/none/infer", b"{}"),
            "no path": status_of("/none"),
        }


def load(session):
    """Call until each node's replica has answered several requests in one run."""
    worst, found = 0.0, {}
    with Client(URL, MODEL, timeout=120) as client, ThreadPoolExecutor(24) as threads:
        while len(found) < NODES or any(ran >= asked for asked, ran in found.values()):
            outputs = list(threads.map(lambda seed: client.run(data(seed))[0], range(300)))
            errors = [distance(output, session, seed) for seed, output in enumerate(outputs)]
            worst = max(worst, *errors)
            found |= replicas()
    return {"worst": worst, "replicas": found}


def in_chunks(call, seed, chunks):
    return np.concatenate([call(chunk) for chunk in np.split(data(seed, 3 * chunks), chunks, 1)], 1)


def sequences(session):
    def one(seed):
        with client.sequence() as sequence:
            return distance(in_chunks(sequence, seed, 5), session, seed, 15)

    with Client(URL, MODEL) as client, ThreadPoolExecutor(30) as threads:
        return {"worst": max(threads.map(one, range(30)))}


def plain(session, seed, dead):
    """Send sequences as any client of the protocol does, until some are sent after the loss.

    A sequence that is refused is sent anew under the same id. Returns how many answers there were,
    how many sequences were sent anew, and how far the last answers were from right.
    """
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{PORT}", network_timeout=120)
    numbers, worst, again, rest, done = np.random.default_rng(seed), [], 0, 10, 0
    while done < 25 or rest:
        rest -= dead.is_set() and rest > 0
        x = numbers.standard_normal((1, 10, 3)).astype(np.float32)
        sequence_id = 1000 * (seed + 1) + done % 7  # ids come again
        while True:
            try:
                for start in range(0, 10, 2):
                    tensor = tritonclient.http.InferInput("input", (1, 2, 3), "FP32")
                    tensor.set_data_from_numpy(np.ascontiguousarray(x[:, start : start + 2]))
                    ends = {"sequence_start": start == 0, "sequence_end": start == 8}
                    result = client.infer(MODEL, [tensor], sequence_id=sequence_id, **ends)
                break
            except (InferenceServerException, OSError):
                again += 1
                time.sleep(0.2)
        done += 1
        worst.append(float(np.abs(result.as_numpy("output") - session(x)[0][:, 8:]).max()))
    return [done, again, *worst]


def killed(session, cluster, node):
    """Kill a node while streams and sequences go on."""
    running, dead = threading.Barrier(13), threading.Event()
    failures = []
    check = client_module.check

    def counted(answer):
        try:
            check(answer)
        except Exception as error:
            failures.append(f"{answer.status} {type(error).__name__} {error}"[:200])
            raise

    client_module.check = counted

    def stream(seed):
        call, numbers, sent, outputs = client.stream(), np.random.default_rng(seed), [], []
        rest = 20  # chunks after the loss
        while rest:
            rest -= dead.is_set()
            sent.append(numbers.standard_normal((1, 3, 3)).astype(np.float32))
            outputs.append(call(sent[-1]))
            if len(sent) == 5:
                running.wait(60)
        expected = session(np.concatenate(sent, 1))[0]
        return float(np.abs(np.concatenate(outputs, 1) - expected).max())

    with (
        Client(URL, MODEL, timeout=120) as client,
        ThreadPoolExecutor(12) as threads,
        ThreadPoolExecutor(8) as more,
    ):
        held = [client.sequence() for _ in range(30)]
        for number, sequence in enumerate(held):
            sequence(data(number, 15)[:, :3])
        streams = [threads.submit(stream, seed) for seed in range(12)]
        plains = [more.submit(plain, session, seed, dead) for seed in range(8)]
        running.wait(60)
        try:
            cluster.remove_node(node, allow_graceful=False)
        finally:
            dead.set()
        worst = max(future.result(240) for future in streams)
        by_plain_clients = [future.result(240) for future in plains]
        lost, wrong = 0, 0.0
        for number, sequence in enumerate(held):
            try:
                output = sequence(data(number, 15)[:, 3:6])
            except SequenceError:
                lost += 1
            else:
                expected = session(data(number, 15))[0][:, 3:6]
                wrong = max(wrong, float(np.abs(output - expected).max()))
        anew = distance(in_chunks(client.sequence(), 99, 5), session, 99, 15)
    return {
        "streams": worst,
        "lost sequences": lost,
        "kept sequences": wrong,
        "new sequence": anew,
        "failures": failures,
        "plain": by_plain_clients,
    }


def event_of(line):
    try:
        return json.loads(line)["event"]
    except ValueError:
        return None  # Ray's own lines


def command(session, model):
    """Run the command until SIGTERM."""
    process = subprocess.Popen(
        [*COMMAND, "deploy", "ray", model, "--threads", "1", "--http-port", str(PORT + 1)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert any(event_of(line) == "ready" for line in process.stderr)
        with Client(f"http://127.0.0.1:{PORT + 1}", MODEL) as client:
            worst = distance(client.run(data(0))[0], session, 0)
        process.terminate()
        rest = process.communicate(timeout=120)[1]
    finally:
        process.kill()
        process.wait()
    return {
        "worst": worst,
        "status": process.returncode,
        "stopped": "stopped" in map(event_of, rest.splitlines()),
    }


STEPS = {protocol: 0, load: 0, sequences: 0, killed: 2}
"""What is tried, and whether it takes the cluster and the node to lose."""


def main(model, config_file):
    session = Session(model)
    times = {}
    begin = time.monotonic()
    cluster, workers = start(config_file)
    times["start"] = time.monotonic() - begin
    try:
        result = {"times": times}
        for step, arguments in STEPS.items():
            result[step.__name__] = step(session, *(cluster, workers[0])[:arguments])
            times[step.__name__] = time.monotonic() - begin
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()
    result["command"] = command(session, model)
    times["all"], times["cpu"] = time.monotonic() - begin, sum(os.times()[:4])
    return result


if __name__ == "__main__":
    print("RESULT " + json.dumps(main(*sys.argv[1:])))
