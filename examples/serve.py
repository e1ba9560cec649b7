"""A server, and a client that sends it a sequence and a stream: serve.py MODEL.onnx."""

import json
import subprocess
import sys

import numpy as np

from bnlstm_deploy.client import Client

command = ["bnlstm-deploy", "serve", sys.argv[1], "--http-port", "0", "--grpc-port", "0"]
with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
    assert server.stderr is not None
    log = map(json.loads, server.stderr)
    address = next(line["http"] for line in log if line["event"] == "listening")
    models = next(line["models"] for line in log if line["event"] == "ready")
    with Client(address, models[0].partition("/")[0]) as client:
        x = np.random.default_rng(0).random((1, 64, 1), np.float32)
        whole, _ = client.run(x)
        stream = client.stream()
        for chunk in np.split(x, 4, axis=1):
            output = stream(chunk)
    server.terminate()
print(np.abs(output - whole).max())
