"""tritonclient over gRPC, in a process of its own, as a user has it.

    python -m tests.serve.triton_grpc HOST:PORT [TOKEN]

prints what it got as JSON.
"""

import json
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

X = np.random.default_rng(0).standard_normal((2, 7, 3)).astype(np.float32)


def given(array):
    tensor = triton.InferInput("input", array.shape, "FP32")
    tensor.set_data_from_numpy(np.ascontiguousarray(array))
    return tensor


def main(address, token=None):
    client = triton.InferenceServerClient(address)
    options = {} if token is None else {"headers": {"authorization": f"Bearer {token}"}}
    got = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": client.is_model_ready("small", **options),
        "version ready": client.is_model_ready("small", "1", **options),
        "server": client.get_server_metadata(as_json=True, **options),
        "model": client.get_model_metadata("small", as_json=True, **options),
    }
    result = client.infer("small", [given(X)], request_id="7", **options)
    got["id"] = result.get_response().id
    got["outputs"] = {
        output.name: result.as_numpy(output.name).tolist()
        for output in result.get_response().outputs
    }
    wanted = [triton.InferRequestedOutput("h_n")]
    result = client.infer("small", [given(X)], outputs=wanted, model_version="1", **options)
    got["wanted"] = [output.name for output in result.get_response().outputs]
    for sequence in (7, "seven"):
        for start in range(7):
            ends = {"sequence_start": start == 0, "sequence_end": start == 6}
            chunk = given(X[:, start : start + 1])
            result = client.infer("small", [chunk], sequence_id=sequence, **ends, **options)
        got[f"sequence {sequence!r}"] = result.as_numpy("h_n").tolist()
        try:
            client.infer("small", [chunk], sequence_id=sequence, **options)
        except InferenceServerException as error:
            got["unknown sequence"] = error.status()
    json.dump(got, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
