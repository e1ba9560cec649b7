"""How the workers of a server ask each other.

They ask for chunks of sequences that another one holds, for what each did, and to load models.

Each worker listens on a socket of the file system, in a folder that only their user can enter. A
message is its length and MessagePack; answers have their request's number, in any order.
"""

import asyncio
import contextlib
import itertools
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from bnlstm_deploy.errors import BnlstmError, OverloadedError, SequenceError
from bnlstm_deploy.serve.dispatch import Dispatcher
from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.faults import from_words, to_words
from bnlstm_deploy.serve.inference import InferRequest
from bnlstm_deploy.serve.records import Records
from bnlstm_deploy.serve.sequences import Chunk
from bnlstm_deploy.serve.stats import ServerStats, together
from bnlstm_deploy.signature import Array

LENGTH = 8
"""Bytes before a message that say how long it is."""

STATS_SECONDS = 2.0
"""How long to wait for what another worker did."""


class _Packed(NamedTuple):
    """An array in a message."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class _Infer(NamedTuple):
    """A request for a model."""

    model: str
    version: str
    arrays: list[_Packed]
    outputs: list[str] | None
    chunk: Chunk
    timeout: float | None


class _Answer(NamedTuple):
    """An answer: what was asked for, or the name of an error's class and its text."""

    number: int
    content: msgspec.Raw
    error: tuple[str, str] | None


class _Ask(NamedTuple):
    """A question."""

    number: int
    kind: str
    content: msgspec.Raw


def path_of(folder: Path, worker: int) -> Path:
    """Return where a worker listens."""
    return folder / f"{worker}.sock"


def owner(sequence_id: int | str, workers: int) -> int:
    """Return which worker holds a sequence."""
    return zlib.crc32(repr(sequence_id).encode()) % workers


class Peers(Dispatcher):
    """Runs requests in this worker of a server, or in the one that holds their sequence.

    Args:
        records: Of this worker.
        folder: Where the workers listen.
        worker: The number of this one.
        workers: How many there are.
    """

    alone = False

    def __init__(self, records: Records, folder: Path, worker: int, workers: int) -> None:
        super().__init__(records)
        self._folder, self._worker, self._workers = folder, worker, workers
        self._lines = {
            other: _Line(path_of(folder, other)) for other in range(workers) if other != worker
        }
        self._server: asyncio.Server | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        path = path_of(self._folder, self._worker)
        path.unlink(missing_ok=True)  # of a worker before this one, which has died
        self._server = await asyncio.start_unix_server(self._serve, path)

    async def stop(self) -> None:
        """Answer what others asked, and stop listening."""
        if self._server is not None:
            self._server.close()
        while self._answering:
            await asyncio.wait(self._answering)
        for line in self._lines.values():
            line.close()

    async def infer(self, engine: Engine, request: InferRequest) -> dict[str, Array]:
        """Return the outputs of a request, from the worker that holds its sequence.

        Raises:
            SequenceError: That worker was lost, or does not hold the sequence.
            BnlstmError: As `Dispatcher.infer`.
        """
        chunk = request.chunk
        held_by = self._worker if chunk is None else owner(chunk.sequence_id, self._workers)
        if chunk is None or held_by == self._worker:
            return await super().infer(engine, request)
        arrays = [
            _Packed(name, array.dtype.name, array.shape, array.tobytes())
            for name, array in request.arrays.items()
        ]
        asked = _Infer(
            *(engine.name, engine.version, arrays, request.outputs, chunk, request.timeout)
        )
        try:
            content = await self._lines[held_by].ask("infer", asked)
        except OSError as error:
            raise SequenceError(
                f"the worker that holds sequence {chunk.sequence_id!r} was lost; send it anew from "
                "its start, with sequence_start"
            ) from error
        return _unpacked(msgspec.msgpack.decode(content, type=list[_Packed]))

    async def stats(self) -> ServerStats:
        """Return what all workers did so far; of one that does not answer nothing."""

        async def ask(line: _Line) -> ServerStats | None:
            with contextlib.suppress(OSError, TimeoutError, BnlstmError):
                async with asyncio.timeout(STATS_SECONDS):
                    content = await line.ask("stats", None)
                    return msgspec.msgpack.decode(content, type=ServerStats)
            return None

        others = await asyncio.gather(*(ask(line) for line in self._lines.values()))
        return together([self.records.stats(), *(stats for stats in others if stats is not None)])

    async def load(self, name: str) -> None:
        """Open the files of a model anew, in one worker after the other.

        Raises:
            BnlstmError: As `Dispatcher.load`, or a worker is lost.
        """
        await super().load(name)
        await self._ask_all("load", name)

    async def unload(self, name: str) -> None:
        """Drop a model in all workers.

        Raises:
            BnlstmError: As `Dispatcher.unload`, or a worker is lost.
        """
        await super().unload(name)
        await self._ask_all("unload", name)

    async def _ask_all(self, kind: str, name: str) -> None:
        for line in self._lines.values():
            try:
                await line.ask(kind, name)
            except OSError as error:
                raise OverloadedError(
                    "a worker is being restarted, and has the files as they are now; ask again"
                ) from error

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer another worker until it closes."""
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                asked = msgspec.msgpack.decode(await _read(reader), type=_Ask)
                task = asyncio.create_task(self._answer(asked, writer))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)

    async def _answer(self, asked: _Ask, writer: asyncio.StreamWriter) -> None:
        kinds: dict[str, Callable[[msgspec.Raw], Awaitable[object]]] = {
            "infer": self._infer_here,
            "stats": self._stats_here,
            "load": self._load_here,
            "unload": self._unload_here,
        }
        content, error = msgspec.Raw(msgspec.msgpack.encode(None)), None
        try:
            content = msgspec.Raw(msgspec.msgpack.encode(await kinds[asked.kind](asked.content)))
        except Exception as failed:
            error = to_words(failed)
        with contextlib.suppress(OSError):
            await _write(writer, _Answer(asked.number, content, error))

    async def _infer_here(self, content: msgspec.Raw) -> list[_Packed]:
        asked = msgspec.msgpack.decode(content, type=_Infer)
        engine = self.records.models.open(asked.model, asked.version)
        arrays = _unpacked(asked.arrays)
        results = await super().infer(
            engine, InferRequest("", arrays, asked.outputs, asked.chunk, asked.timeout)
        )
        return [_Packed(n, a.dtype.name, a.shape, a.tobytes()) for n, a in results.items()]

    async def _stats_here(self, content: msgspec.Raw) -> ServerStats:
        del content
        return self.records.stats()

    async def _load_here(self, content: msgspec.Raw) -> None:
        await super().load(msgspec.msgpack.decode(content, type=str))

    async def _unload_here(self, content: msgspec.Raw) -> None:
        await super().unload(msgspec.msgpack.decode(content, type=str))


class _Line:
    """A connection to another worker, made when it is needed, and anew when that was restarted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    async def ask(self, kind: str, content: object) -> msgspec.Raw:
        """Return the answer to a question.

        Raises:
            OverloadedError: The worker is not there.
            OSError: It was lost before it answered.
            BnlstmError: What it says.
        """
        async with self._connecting:  # questions are sent in the order in which they are asked
            if self._writer is None:
                await self._connect()
            writer, number = self._writer, next(self._numbers)
            assert writer is not None
            future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
            self._waiting[number] = future
            packed = msgspec.Raw(msgspec.msgpack.encode(content))
            try:
                await _write(writer, _Ask(number, kind, packed))
            except BaseException:  # whoever asks may have left
                del self._waiting[number]
                raise
        try:
            return await future
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """Hang up."""
        if self._reading is not None:
            self._reading.cancel()
        self._lose()

    async def _connect(self) -> None:
        try:
            reader, self._writer = await asyncio.open_unix_connection(self._path)
        except OSError as error:
            raise OverloadedError(
                "the worker that holds this is being restarted; try again later"
            ) from error
        self._reading = asyncio.create_task(self._read_answers(reader))

    async def _read_answers(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                answer = msgspec.msgpack.decode(await _read(reader), type=_Answer)
                future = self._waiting.get(answer.number)
                if future is None or future.done():
                    continue  # nobody waits for it any more
                if answer.error is None:
                    future.set_result(answer.content)
                else:
                    future.set_exception(from_words(answer.error))
        except (OSError, asyncio.IncompleteReadError):
            self._lose()

    def _lose(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionResetError("the worker was lost"))


def _unpacked(arrays: list[_Packed]) -> dict[str, Array]:
    return {name: np.frombuffer(data, dtype).reshape(shape) for name, dtype, shape, data in arrays}


async def _read(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(LENGTH)))


async def _write(writer: asyncio.StreamWriter, message: Any) -> None:  # noqa: ANN401
    packed = msgspec.msgpack.encode(message)
    writer.write(len(packed).to_bytes(LENGTH))
    writer.write(packed)
    await writer.drain()
