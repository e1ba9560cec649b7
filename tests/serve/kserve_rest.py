"""KServe's client over REST, in a process of its own: tritonclient cannot be imported beside it.

Both define the protocol's messages under one name, which protobuf refuses.

    python -m tests.serve.kserve_rest URL

prints the outputs that it got as JSON.
"""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

X = np.random.default_rng(0).standard_normal((2, 7, 3)).astype(np.float32)


async def main(base):
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await client.is_server_ready(base)
    assert await client.is_model_ready(base, "small")
    outputs = []
    for binary_data in (True, False):
        given = InferInput("input", [*X.shape], "FP32")
        given.set_data_from_numpy(X, binary_data=binary_data)
        answer = await client.infer(base, InferRequest("small", [given]), model_name="small")
        outputs.append(answer.outputs[0].as_numpy().tolist())
    await client.close()
    json.dump(outputs, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
