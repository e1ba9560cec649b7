"""The gRPC server: kserve's service, with versions, the token, and the statuses of `faults`."""

from collections.abc import Awaitable, Callable
from typing import NoReturn

import grpc
from grpc import aio
from grpc_interceptor import AsyncServerInterceptor
from kserve import InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (
    add_GRPCInferenceServiceServicer_to_server as add_service,
)
from kserve.protocol.grpc.servicer import InferenceServicer

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.serve.faults import fault_of, message_of
from bnlstm_deploy.serve.guard import check_token
from bnlstm_deploy.serve.kserve_model import raw
from bnlstm_deploy.serve.plane import Plane, key
from bnlstm_deploy.serve.records import Records
from bnlstm_deploy.serve.settings import Settings

OPEN_METHODS = ("ServerLive", "ServerReady")
"""What needs no token: a probe has none."""


def create_server(
    plane: Plane, records: Records, settings: Settings, address: str
) -> tuple[aio.Server, int]:
    """Return a server that is bound and not started, and its port.

    kserve's own binds all interfaces, and shares its port with any other process that asks.

    Args:
        plane: The models.
        records: What counts and logs requests.
        settings: Limits and the token.
        address: HOST:PORT; port 0 for any that is free.

    Raises:
        InputError: The port is in use or the host is not this machine's.
    """
    server = aio.server(
        interceptors=[_Interceptor(settings.token)],
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", settings.limits.max_body),
            ("grpc.max_send_message_length", -1),
        ],
    )
    add_service(_Servicer(plane, records), server)
    try:
        return server, server.add_insecure_port(address)
    except RuntimeError as error:
        raise InputError(
            f"gRPC cannot listen on {address}: the port is in use, or the host is not this "
            "machine's; choose another grpc_port or host"
        ) from error


class _Servicer(InferenceServicer):  # type: ignore[misc]  # kserve has no types
    """kserve's service; a model's version is part of its name there."""

    def __init__(self, plane: Plane, records: Records) -> None:
        super().__init__(plane, None)
        self.plane = plane
        self.records = records

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: aio.ServicerContext
    ) -> pb.ModelReadyResponse:
        """Return whether a model is ready."""
        request.name = key(request.name, request.version)
        return await super().ModelReady(request, context)

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: aio.ServicerContext
    ) -> pb.ModelMetadataResponse:
        """Return inputs, outputs and versions of a model."""
        described = await self.plane.model_metadata(key(request.name, request.version))
        return pb.ModelMetadataResponse(**described)

    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: aio.ServicerContext
    ) -> pb.ModelInferResponse:
        """Answer an inference request; if the client leaves, gRPC cancels this."""
        with self.records.request("grpc", request.model_name, request.model_version) as record:
            record.id = request.id
            self.validate_grpc_request(request)
            asked = InferRequest.from_grpc(request)
            alias = key(request.model_name, request.model_version)
            response, _ = await self.plane.infer(alias, asked)
            return raw(response).to_grpc()

    async def RepositoryModelLoad(  # noqa: N802
        self, request: object, context: aio.ServicerContext
    ) -> NoReturn:
        """Refuse: the models of a server are those that it was started with."""
        raise InputError("this server neither loads nor unloads models; start it with others")

    RepositoryModelUnload = RepositoryModelLoad


class _Interceptor(AsyncServerInterceptor):
    """Asks for the token, and turns errors into statuses."""

    def __init__(self, token: str | None) -> None:
        self.token = token

    async def intercept(
        self,
        method: Callable[[object, aio.ServicerContext], Awaitable[object]],
        request_or_iterator: object,
        context: aio.ServicerContext,
        method_name: str,
    ) -> object:
        try:
            if method_name.rpartition("/")[2] not in OPEN_METHODS:
                metadata = dict(context.invocation_metadata() or ())
                check_token(metadata.get("authorization"), self.token)
            return await method(request_or_iterator, context)
        except grpc.RpcError:
            raise
        except Exception as error:
            return await context.abort(fault_of(error).code, message_of(error))
