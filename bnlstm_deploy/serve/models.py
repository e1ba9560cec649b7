"""The models of a server by name and version, and what the protocol says of them."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bnlstm_deploy.errors import BnlstmError, InputError, OverloadedError, RuntimeSessionError
from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.faults import NotReadyError, UnknownModelError
from bnlstm_deploy.serve.logs import log
from bnlstm_deploy.serve.repository import Entry, find
from bnlstm_deploy.signature import Value
from bnlstm_deploy.version import __version__

PLATFORM = "onnxruntime_onnx"
"""What model metadata calls the engine; the name is Triton's."""

EXTENSIONS = [
    *("binary_tensor_data", "sequence", "statistics", "model_repository", "model_configuration")
]


class Broken(NamedTuple):
    """A file that cannot be served."""

    entry: Entry
    reason: str


class Opened(NamedTuple):
    """What became of some files."""

    engines: list[Engine]
    broken: list[Broken]


class Repository:
    """The files that a server was started with, as they are at any time.

    Args:
        arguments: Files and folders, as `repository.find` takes them.
        open_one: Opens one file.
    """

    def __init__(self, arguments: Sequence[str], open_one: Callable[[Entry], Engine]) -> None:
        self._arguments, self._open_one = arguments, open_one

    def names(self) -> list[str]:
        """Return the names of the models.

        Raises:
            InputError: A path is wrong.
        """
        return list(dict.fromkeys(entry.name for entry in find(self._arguments)))

    def open(self, name: str | None = None) -> Opened:
        """Open the files of a model, or all; of those that are in folders some may be damaged.

        Raises:
            InputError: A path is wrong.
            RuntimeSessionError: A file that was named cannot be used, or none of all.
        """
        engines: list[Engine] = []
        broken: list[Broken] = []
        error: RuntimeSessionError | None = None
        for entry in find(self._arguments):
            if name not in (None, entry.name):
                continue
            try:
                engines.append(self._open_one(entry))
            except RuntimeSessionError as failed:
                if entry.named:
                    raise
                error = failed
                broken.append(Broken(entry, str(failed)))
        if error is not None and not engines:
            raise error
        return Opened(engines, broken)


class Models:
    """The models of a server.

    Engines are changed by `load` and `unload` alone, in the thread of the event loop.

    Args:
        engines: The models; one name may be there in several versions, and the highest serves
            requests that name none.
        broken: Files that could not be opened.
        repository: The files, to open them anew; None if they cannot be.
        controlled: Whether clients may load and unload models.

    Attributes:
        engines: The models, by name and then by version.
        broken: As given.
        draining: Whether the server is shutting down: it is not ready, and takes no requests.

    Raises:
        InputError: Two engines have one name and version.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        broken: Sequence[Broken] = (),
        repository: Repository | None = None,
        *,
        controlled: bool = False,
    ) -> None:
        self.broken = [*broken]
        self._controlled = controlled
        self.draining = False
        self._repository = repository
        self._unloaded: list[tuple[str, str]] = []
        self._changing = asyncio.Lock()
        self._set(engines)

    @property
    def names(self) -> list[str]:
        """The names of the models."""
        return list(dict.fromkeys(engine.name for engine in self.engines))

    @property
    def ready(self) -> bool:
        """Whether every model is warm, and requests are taken."""
        return not self.draining and all(engine.ready for engine in self.engines)

    def find(self, name: str, version: str | None) -> Engine | None:
        """Return a model; without a version the highest."""
        return self._by_name.get((name, version or ""))

    def get(self, name: str, version: str | None = None) -> Engine:
        """Return a model; without a version the highest.

        Raises:
            UnknownModelError: There is none.
        """
        engine = self.find(name, version)
        if engine is None:
            of = f"version {version} of " if version else ""
            raise UnknownModelError(f"{of}model {name!r} does not exist; there are {self.names}")
        return engine

    def takes(self, name: str, version: str | None = None) -> bool:
        """Return whether a model is there, warm, and takes requests."""
        engine = self.find(name, version)
        return engine is not None and engine.ready and not self.draining

    def open(self, name: str, version: str | None = None) -> Engine:
        """Return a model that takes requests.

        Raises:
            OverloadedError: The server is shutting down.
            UnknownModelError: There is no such model.
            NotReadyError: It is not warm.
        """
        if self.draining:
            raise OverloadedError("the server is shutting down; repeat the request elsewhere")
        engine = self.get(name, version)
        if not engine.ready:
            raise NotReadyError(f"model {name!r} is not ready; repeat the request in a while")
        return engine

    def metadata(self) -> dict[str, Any]:
        """Return what the server says of itself."""
        return {"name": "bnlstm-deploy", "version": __version__, "extensions": EXTENSIONS}

    def model_metadata(self, engine: Engine) -> dict[str, Any]:
        """Return a model's inputs, those that may be left out last, outputs and versions."""
        return {
            "name": engine.name,
            "versions": [other.version for other in self.engines if other.name == engine.name],
            "platform": PLATFORM,
            "inputs": [value.described() for value in engine.inputs],
            "outputs": [value.described() for value in engine.outputs],
        }

    def model_config(self, engine: Engine) -> dict[str, Any]:
        """Return a model's configuration as Triton has it.

        `max_batch_size` is 0, which there means that shapes are whole; batches are made anyway.
        """
        return {
            "name": engine.name,
            "platform": PLATFORM,
            "backend": "onnxruntime",
            "max_batch_size": 0,
            "input": [
                _config(value) | {"optional": value.name in engine.optional}
                for value in engine.inputs
            ],
            "output": [_config(value) for value in engine.outputs],
        }

    def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """Return the repository's index: every model that is there or was, or is ready."""
        rows = [(e.name, e.version, "READY" if e.ready else "LOADING", "") for e in self.engines]
        rows += [(b.entry.name, b.entry.version, "UNAVAILABLE", b.reason) for b in self.broken]
        rows += [(name, version, "UNAVAILABLE", "unloaded") for name, version in self._unloaded]
        names = ("name", "version", "state", "reason")
        return [
            dict(zip(names, row, strict=True)) for row in rows if row[2] == "READY" or not ready
        ]

    async def load(self, name: str) -> None:
        """Open the files of a model anew and warm them up; requests go to them from then on.

        Those that the engines before have accepted are answered. Sequences go on, unless the
        weights are others now: then they are over.

        Raises:
            InputError: Clients may not load models here, or a file cannot be used: then the engines
                before stay.
            UnknownModelError: There are no files of this name.
        """
        # If who asks leaves, it is done nevertheless: half done, sequences would be lost.
        await asyncio.shield(self._load(name, self._may_change()))

    async def reload(self) -> None:
        """Open all files anew, as `load` does, and those that are new.

        An error leaves a model as it was, and is logged.
        """
        if self._repository is None:
            return
        try:
            names = await asyncio.to_thread(self._repository.names)
        except BnlstmError as error:
            log("not reloaded", model="", reason=str(error))
            return
        for name in dict.fromkeys((*self.names, *names)):
            try:
                await self._load(name, self._repository)
            except BnlstmError as error:
                log("not reloaded", model=name, reason=str(error))
            else:
                log("reloaded", model=name)

    async def unload(self, name: str) -> None:
        """Answer what a model has accepted, and drop it.

        Raises:
            InputError: Clients may not unload models here.
            UnknownModelError: There is no such model.
        """
        self._may_change()
        await asyncio.shield(self._unload(name))

    def _may_change(self) -> Repository:
        if self._repository is None or not self._controlled:
            raise InputError(
                "this server neither loads nor unloads models; start it with --model-control"
            )
        return self._repository

    async def _load(self, name: str, repository: Repository) -> None:
        async with self._changing:
            opened = await asyncio.to_thread(_opened, repository, name)
            before = {e.version: e for e in self.engines if e.name == name}
            for engine in opened:
                engine.pause(engine.version in before)  # until it has the sequences of that
            self._unloaded = [one for one in self._unloaded if one[0] != name]
            self.broken = [one for one in self.broken if one.entry.name != name]
            self._set([*(e for e in self.engines if e.name != name), *opened])
            await asyncio.gather(*(_closed(engine) for engine in before.values()))
            for engine in opened:
                if engine.version in before:
                    engine.take_over(before[engine.version])
                engine.pause(False)

    async def _unload(self, name: str) -> None:
        async with self._changing:
            self.get(name)
            before = [engine for engine in self.engines if engine.name == name]
            self._unloaded += [(engine.name, engine.version) for engine in before]
            self._set([engine for engine in self.engines if engine.name != name])
            await asyncio.gather(*(_closed(engine) for engine in before))

    def _set(self, engines: Sequence[Engine]) -> None:
        ordered = sorted(engines, key=lambda engine: (engine.name, int(engine.version)))
        by_name: dict[tuple[str, str], Engine] = {}
        for engine in ordered:
            if (engine.name, engine.version) in by_name:
                raise InputError(f"version {engine.version} of {engine.name!r} is there twice")
            by_name[engine.name, engine.version] = engine
            by_name[engine.name, ""] = engine  # the last one, the highest, keeps the name
        self.engines = ordered
        self._by_name: Mapping[tuple[str, str], Engine] = by_name


async def _closed(engine: Engine) -> None:
    """Let an engine answer what it has accepted; what runs then ends, however long it takes."""
    await asyncio.to_thread(engine.drain, engine.limits.timeout)
    await asyncio.to_thread(engine.close)


def _opened(repository: Repository, name: str) -> list[Engine]:
    try:
        engines, broken = repository.open(name)
    except RuntimeSessionError as error:
        raise InputError(f"model {name!r} cannot be loaded: {error}") from error
    try:
        if broken:
            raise InputError(f"model {name!r} cannot be loaded: {broken[0].reason}")
        if not engines:
            raise UnknownModelError(f"there are no files of a model {name!r}")
        for engine in engines:
            engine.warm_up()
    except BnlstmError:
        for engine in engines:
            engine.close()
        raise
    return engines


def _config(value: Value) -> dict[str, Any]:
    described = value.described()
    return {
        "name": value.name,
        "data_type": f"TYPE_{value.datatype}",
        "dims": described["shape"],
    }
