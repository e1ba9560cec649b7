"""An engine as kserve's model."""

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any

import kserve
import numpy as np
from kserve import InferOutput, InferRequest, InferResponse
from kserve.utils.numpy_codec import from_np_dtype

from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.tensors import read_chunk, read_outputs, read_tensors
from bnlstm_deploy.signature import Array


class Model(kserve.Model):  # type: ignore[misc]  # kserve has no types
    """One model of a server: kserve's protocol on one side, an engine on the other."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.name)
        self.engine = engine

    async def healthy(self) -> bool:
        """Return whether the engine is warm."""
        return self.engine.ready

    def load(self) -> bool:
        """Return whether the engine is warm; kserve's own says that any model is."""
        return self.engine.ready

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the inputs, those that may be left out last."""
        return [value.described() for value in self.engine.inputs]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the outputs, final states last."""
        return [value.described() for value in self.engine.outputs]

    async def predict(
        self, payload: InferRequest, headers: Mapping[str, str] | None = None
    ) -> InferResponse:
        """Answer one request; if the caller is cancelled, so is the request.

        Raises:
            InputError: The request does not fit the model.
            SequenceError: It continues a sequence that the server does not hold.
            OverloadedError: The queue is full.
            DeadlineError: There was no answer in time.
        """
        del headers
        arrays = read_tensors(payload, self.engine.inputs)
        outputs = read_outputs(payload, self.engine.outputs)
        future = self.engine.submit(arrays, outputs=outputs, sequence=read_chunk(payload))
        results = await asyncio.wrap_future(future)
        return self._response(payload, results, outputs)

    def _response(
        self, request: InferRequest, results: Mapping[str, Array], wanted: list[str] | None
    ) -> InferResponse:
        names = wanted or [value.name for value in self.engine.outputs if value.name in results]
        arrays = [results[name] for name in names]
        return InferResponse(
            response_id=request.id or str(uuid.uuid4()),
            model_name=self.engine.name,
            model_version=self.engine.version,
            infer_outputs=[
                InferOutput(name, list(array.shape), from_np_dtype(array.dtype), data=array)
                for name, array in zip(names, arrays, strict=True)
            ],
        )


def raw(response: InferResponse) -> InferResponse:
    """Return the response with its tensors as bytes, as gRPC sends them."""
    return InferResponse(
        response_id=response.id,
        model_name=response.model_name,
        model_version=response.model_version,
        infer_outputs=[
            InferOutput(output.name, output.shape, output.datatype) for output in response.outputs
        ],
        raw_outputs=[np.asarray(output.data).tobytes() for output in response.outputs],
    )
