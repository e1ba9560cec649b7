"""The models of a server by name and version, as kserve's data plane."""

from collections.abc import Iterable, Mapping
from typing import Any

from kserve import InferRequest, InferResponse, ModelRepository
from kserve.errors import ModelNotFound, ModelNotReady
from kserve.protocol.dataplane import DataPlane

from bnlstm_deploy.errors import InputError, OverloadedError
from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.kserve_model import Model
from bnlstm_deploy.version import __version__

PLATFORM = "onnxruntime_onnx"
"""What model metadata calls the engine; the name is Triton's."""


def key(name: str, version: str | None) -> str:
    """Return under which name the repository has a version; the highest one has the bare name.

    kserve knows no versions, but lets a model have several names. A model's own has no slash.
    """
    return f"{name}/versions/{version}" if version else name


class Plane(DataPlane):  # type: ignore[misc]  # kserve has no types
    """What REST and gRPC both call.

    Args:
        engines: The models; one name may be there in several versions.

    Attributes:
        engines: The same.
        draining: Whether the server is shutting down: it is not ready, and takes no requests.

    Raises:
        InputError: Two engines have one name and version.
    """

    def __init__(self, engines: Iterable[Engine]) -> None:
        super().__init__(ModelRepository())
        self.engines = sorted(engines, key=lambda engine: (engine.name, int(engine.version)))
        self.draining = False
        for engine in self.engines:
            versioned = key(engine.name, engine.version)
            if self.model_registry.get_model(versioned) is not None:
                raise InputError(f"version {engine.version} of {engine.name!r} is there twice")
            model = Model(engine)
            self.model_registry.update(model, versioned)
            self.model_registry.update(model)  # the last one, the highest, keeps the name

    @property
    def names(self) -> list[str]:
        """The names of the models."""
        return list(dict.fromkeys(engine.name for engine in self.engines))

    def metadata(self) -> dict[str, Any]:
        """Return what the server says of itself."""
        return {
            "name": "bnlstm-deploy",
            "version": __version__,
            "extensions": ["binary_tensor_data", "sequence"],
        }

    async def ready(self) -> bool:
        """Return whether every model is warm, and requests are taken."""
        return not self.draining and all(engine.ready for engine in self.engines)

    async def model_ready(
        self, model_name: str, disable_predictor_health_check: bool = True
    ) -> bool:
        """Return whether a model is warm, and requests are taken."""
        ready: bool = await super().model_ready(model_name, disable_predictor_health_check)
        return ready and not self.draining

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """Return a model's inputs, outputs and versions."""
        described: dict[str, Any] = await super().model_metadata(model_name)
        name = self.model_registry.get_model(model_name).name
        versions = [engine.version for engine in self.engines if engine.name == name]
        return described | {"name": name, "platform": PLATFORM, "versions": versions}

    def open_model(self, model_name: str) -> Model:
        """Return a model that takes requests.

        Raises:
            OverloadedError: The server is shutting down.
            ModelNotFound: There is no such model.
            ModelNotReady: It is not warm.
        """
        if self.draining:
            raise OverloadedError("the server is shutting down; repeat the request elsewhere")
        model: Model | None = self.model_registry.get_model(model_name)
        if model is None:
            raise ModelNotFound(model_name)
        if not model.engine.ready:
            raise ModelNotReady(model_name)
        return model

    async def infer(
        self, model_name: str, request: InferRequest, headers: Mapping[str, str] | None = None
    ) -> tuple[InferResponse, dict[str, str]]:
        """Answer a request; without kserve's histograms of each stage, which nobody reads.

        Raises:
            OverloadedError, ModelNotFound, ModelNotReady: As `open_model` does.
            BnlstmError: As `Model.predict` does.
        """
        return await self.open_model(model_name).predict(request, headers), {}
