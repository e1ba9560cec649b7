"""Where a request runs."""

import asyncio

import numpy as np

from bnlstm_deploy.runtime import Session
from bnlstm_deploy.serve import Engine
from bnlstm_deploy.serve.dispatch import Dispatcher
from bnlstm_deploy.serve.inference import InferRequest
from bnlstm_deploy.serve.models import Models, Repository
from bnlstm_deploy.serve.records import Records
from tests.serve.servers import export_small


def test_a_request_that_was_read_while_its_model_was_opened_anew_is_answered(tmp_path):
    path = export_small(tmp_path / "small.onnx")

    def open_one(entry):
        engine = Engine(entry.path, name=entry.name, version=entry.version, threads=1)
        engine.warm_up()
        return engine

    repository = Repository([str(path)], open_one)
    models = Models(*repository.open(), repository, controlled=True)
    before = models.open("small")
    x = np.random.default_rng(0).standard_normal((1, 5, 3)).astype(np.float32)

    async def read_for_long():
        await models.load("small")
        request = InferRequest("", {"input": x}, ["output"], None, None)
        return await Dispatcher(Records(models)).infer(before, request)

    results = asyncio.run(read_for_long())
    assert models.open("small") is not before
    for engine in models.engines:
        engine.close()
    np.testing.assert_array_equal(results["output"], Session(path, intra_op_num_threads=1)(x)[0])
