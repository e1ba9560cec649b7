"""Servers to compare with: python -m tools.serving_peers KIND MODEL.onnx PORT.

`fastapi` is what one writes without a server for models: FastAPI on uvicorn, a session of ONNX
Runtime, and an endpoint that takes an array's bytes and returns those of the output. `asyncio` is
this package's own application as uvicorn serves it, on asyncio's event loop.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from bnlstm_deploy.serve import Engine
from bnlstm_deploy.serve.app import create_app
from bnlstm_deploy.serve.settings import Settings


def fastapi_app(path: Path) -> FastAPI:
    """Return the application that one writes by hand, for a model of one input (1, T, D)."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    features = given.shape[-1]
    app = FastAPI()

    @app.post("/infer")
    async def infer(request: Request) -> Response:
        x = np.frombuffer(await request.body(), np.float32).reshape(1, -1, features)
        (output,) = await run_in_threadpool(session.run, ["output"], {given.name: x})
        return Response(output.tobytes())

    return app


def main(kind: str, path: Path, port: int) -> None:
    """Serve until SIGTERM."""
    quiet = {"port": port, "log_level": "error"}
    if kind == "fastapi":
        uvicorn.run(fastapi_app(path), **quiet)  # type: ignore[arg-type]
    else:
        engine = Engine(path, threads=1)
        engine.warm_up()
        uvicorn.run(create_app([engine], Settings()), loop="asyncio", **quiet)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
