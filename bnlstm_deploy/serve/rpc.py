"""The gRPC server: the Open Inference Protocol with Triton's extensions, health and reflection."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from grpc import aio
from grpc_health.v1.health import OVERALL_HEALTH
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health import aio as health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION
from grpc_reflection.v1alpha.reflection import enable_server_reflection
from tritonclient.grpc import service_pb2 as pb

from bnlstm_deploy.errors import InputError, OverloadedError
from bnlstm_deploy.serve.dispatch import Dispatcher
from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.faults import UnauthorizedError, fault_of, message_of
from bnlstm_deploy.serve.guard import check_token
from bnlstm_deploy.serve.inference import INLINE, InferRequest
from bnlstm_deploy.serve.memory import Trimmer
from bnlstm_deploy.serve.messages import chunk_of, parse, read, write
from bnlstm_deploy.serve.models import Models
from bnlstm_deploy.serve.order import Order
from bnlstm_deploy.serve.records import Records
from bnlstm_deploy.serve.settings import Settings
from bnlstm_deploy.serve.statistics import statistics

T = TypeVar("T", bound=Message)

SERVICE = "inference.GRPCInferenceService"

MAX_METADATA = 16 * 2**10
"""Bytes of the metadata of a call."""

IN_STREAM = 64
"""Requests of a stream that wait; the next is read when one is answered."""

OPEN_METHODS = ("ServerLive", "ServerReady")
"""What needs no token: a probe has none."""


class RpcServer:
    """A gRPC server that is bound and not started.

    Args:
        models: The models.
        records: What counts and logs requests.
        dispatcher: What runs them.
        settings: Limits and the token.
        address: HOST:PORT; port 0 for any that is free.
        shared: Whether other processes listen on the port, too.

    Attributes:
        port: Where it listens.

    Raises:
        InputError: The port is in use or the host is not this machine's.
    """

    def __init__(
        self,
        models: Models,
        records: Records,
        dispatcher: Dispatcher,
        settings: Settings,
        address: str,
        *,
        shared: bool = False,
    ) -> None:
        self._server = aio.server(
            options=[
                ("grpc.so_reuseport", int(shared)),
                ("grpc.max_receive_message_length", settings.limits.max_body),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", MAX_METADATA),
            ],
            maximum_concurrent_rpcs=settings.limits.max_connections,
        )
        service = _Service(models, records, dispatcher, settings)
        self._server.add_generic_rpc_handlers((service.handlers(),))
        self._health = health.HealthServicer()
        add_HealthServicer_to_server(self._health, self._server)
        enable_server_reflection((SERVICE, HEALTH, REFLECTION), self._server)
        try:
            self.port: int = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise InputError(
                f"gRPC cannot listen on {address}: the port is in use, or the host is not this "
                "machine's; choose another grpc_port or host"
            ) from error

    async def start(self) -> None:
        """Start; health is not serving until `set_ready`."""
        await self.set_ready(False)
        await self._server.start()

    async def set_ready(self, ready: bool) -> None:
        """Say what the health service answers."""
        status = HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING
        for service in (OVERALL_HEALTH, SERVICE):
            await self._health.set(service, status)

    async def stop(self, grace: float) -> None:
        """Take no more calls, and end when those that are there have ended, or after a time."""
        await self._server.stop(grace)


class _Service:
    """The methods of the service; each has the name that the protocol gives it."""

    def __init__(
        self, models: Models, records: Records, dispatcher: Dispatcher, settings: Settings
    ) -> None:
        self.models, self.records, self.dispatcher = models, records, dispatcher
        self.token, self.limits = settings.token, settings.limits
        self.pending = 0
        self.trimmer = Trimmer()

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the methods for a server: messages of inference as bytes, others parsed."""
        methods = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(name, getattr(self, name)),
                request_deserializer=getattr(pb, f"{name}Request").FromString,
                response_serializer=_bytes,
            )
            for name in (
                *("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata"),
                *("ModelConfig", "ModelStatistics", "RepositoryIndex"),
                *("RepositoryModelLoad", "RepositoryModelUnload"),
            )
        }
        methods["ModelInfer"] = grpc.unary_unary_rpc_method_handler(
            self._guarded("ModelInfer", self.ModelInfer),
            response_serializer=_bytes,
        )
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self.ModelStreamInfer, response_serializer=_bytes
        )
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def ServerLive(self, request: object) -> Message:  # noqa: N802
        """Return that the server is there."""
        del request
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: object) -> Message:  # noqa: N802
        """Return whether all models are ready."""
        del request
        return pb.ServerReadyResponse(ready=self.models.ready)

    async def ServerMetadata(self, request: object) -> Message:  # noqa: N802
        """Return what the server is."""
        del request
        return pb.ServerMetadataResponse(**self.models.metadata())

    async def ModelReady(self, request: pb.ModelReadyRequest) -> Message:  # noqa: N802
        """Return whether a model is ready; one that is not there is not."""
        return pb.ModelReadyResponse(ready=self.models.takes(request.name, request.version))

    async def ModelMetadata(self, request: pb.ModelMetadataRequest) -> Message:  # noqa: N802
        """Return inputs, outputs and versions of a model."""
        engine = self.models.get(request.name, request.version)
        return pb.ModelMetadataResponse(**self.models.model_metadata(engine))

    async def ModelConfig(self, request: pb.ModelConfigRequest) -> Message:  # noqa: N802
        """Return a model's configuration as Triton has it."""
        engine = self.models.get(request.name, request.version)
        return _message({"config": self.models.model_config(engine)}, pb.ModelConfigResponse())

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest) -> Message:  # noqa: N802
        """Return what models did so far."""
        if request.name:
            self.models.get(request.name, request.version)
        content = statistics(await self.dispatcher.stats(), request.name, request.version)
        return _message(content, pb.ModelStatisticsResponse())

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest) -> Message:  # noqa: N802
        """Return every model that is there or was, and its state."""
        return pb.RepositoryIndexResponse(models=self.models.index(ready=request.ready))

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest
    ) -> Message:
        """Open the files of a model anew."""
        if request.parameters:
            raise InputError("a model is loaded from the server's own files; pass no parameters")
        await self.dispatcher.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest
    ) -> Message:
        """Drop a model."""
        await self.dispatcher.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(self, message: bytes) -> Message:  # noqa: N802
        """Answer an inference request; if the client leaves, gRPC cancels this."""
        with self._taken(message):
            request = await self._parsed(message)
            with self._record(request):
                engine, asked = await self._read(request)
                results = await self.dispatcher.infer(engine, asked)
                return write(results, (engine.name, engine.version), request.id)

    async def ModelStreamInfer(  # noqa: N802
        self, messages: AsyncIterator[bytes], context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Message]:
        """Answer the requests of a stream in their order.

        They run as soon as they come, but those of one sequence in their `Order`.
        """
        await self._admit("ModelStreamInfer", context)
        answers: asyncio.Queue[asyncio.Task[Message] | None] = asyncio.Queue(IN_STREAM)
        order = Order()

        async def feed() -> None:
            try:
                async for message in messages:
                    await answers.put(asyncio.create_task(self._streamed(message, order)))
            finally:
                await answers.put(None)

        feeder = asyncio.create_task(feed())
        try:
            while (answer := await answers.get()) is not None:
                yield await answer
        finally:
            feeder.cancel()
            while not answers.empty():
                if (left := answers.get_nowait()) is not None:
                    left.cancel()

    async def _streamed(self, message: bytes, order: Order) -> Message:
        """Answer one request of a stream; an error is an answer, too."""
        id, known = "", False
        try:
            with self._taken(message), contextlib.ExitStack() as record:
                async with order.reading:
                    request = await self._parsed(message)
                    id = request.id
                    record.enter_context(self._record(request))
                    chunk = chunk_of(request)
                    known = True
                async with order.turn(chunk):
                    engine, asked = await self._read(request)
                    results = await self.dispatcher.infer(engine, asked)
            answer = write(results, (engine.name, engine.version), id)
            return pb.ModelStreamInferResponse(infer_response=answer)
        except Exception as error:
            if not known:
                order.lose()
            return pb.ModelStreamInferResponse(
                error_message=message_of(error), infer_response=pb.ModelInferResponse(id=id)
            )

    async def _parsed(self, message: bytes) -> pb.ModelInferRequest:
        try:
            if len(message) <= INLINE:
                return parse(message, self.limits)
            return await asyncio.to_thread(parse, message, self.limits)
        except Exception as error:
            self.records.refused("grpc", error)
            raise

    def _record(self, request: pb.ModelInferRequest) -> AbstractContextManager[object]:
        return self.records.request("grpc", request.model_name, request.model_version, request.id)

    async def _read(self, request: pb.ModelInferRequest) -> tuple[Engine, InferRequest]:
        engine = self.models.open(request.model_name, request.model_version)
        known = request, engine.inputs, engine.outputs
        if request.raw_input_contents or request.ByteSize() <= INLINE:
            return engine, read(*known)
        return engine, await asyncio.to_thread(read, *known)

    @contextlib.contextmanager
    def _taken(self, message: bytes) -> Iterator[None]:
        """Count the bytes of a request as long as it is here.

        Raises:
            OverloadedError: There are too many already.
        """
        self.pending += len(message)
        try:
            if self.pending > self.limits.max_pending:
                raise OverloadedError(
                    "requests of more bytes are here than max_pending allows, "
                    f"{self.limits.max_pending}; try again later"
                )
            yield
        finally:
            self.pending -= len(message)
            self.trimmer.seen(len(message))

    def _guarded(
        self, name: str, method: Callable[[Any], Awaitable[Message]]
    ) -> Callable[[Any, aio.ServicerContext[Any, Any]], Awaitable[Message]]:
        """Return a method that asks for the token, and turns errors into statuses."""

        async def guarded(request: Any, context: aio.ServicerContext[Any, Any]) -> Message:  # noqa: ANN401
            await self._admit(name, context)
            try:
                return await method(request)
            except Exception as error:
                code, text = fault_of(error).code, message_of(error)
            # gRPC keeps what `abort` raises, and with it this frame, until garbage is collected:
            # the request must not be there any more, nor in the frames of the error.
            del request
            return await context.abort(code, text)

        return guarded

    async def _admit(self, name: str, context: aio.ServicerContext[Any, Any]) -> None:
        if name in OPEN_METHODS or self.token is None:
            return
        metadata = dict(context.invocation_metadata() or ())
        try:
            check_token(str(metadata.get("authorization", "")), self.token)
        except UnauthorizedError as error:
            self.records.refused("grpc", error)
            await context.abort(fault_of(error).code, message_of(error))


def _bytes(message: Message) -> bytes:
    serialized: bytes = message.SerializeToString()
    return serialized


def _message(content: Mapping[str, Any], message: T) -> T:
    json_format.ParseDict(content, message)
    return message
