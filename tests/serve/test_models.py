"""Models that are opened anew while they are asked."""

import asyncio
from threading import Event

import numpy as np
import pytest

from bnlstm_deploy.runtime import Session
from bnlstm_deploy.serve import Chunk, Engine
from bnlstm_deploy.serve.models import Models, Repository
from tests.serve.servers import export_small

X = np.random.default_rng(0).standard_normal((1, 9, 3)).astype(np.float32)


class Held:
    """A model with a sequence, the second chunk of which runs until `go` is set."""

    def __init__(self, path, monkeypatch):
        self.path = path
        self.repository = Repository([str(path)], open_one)
        self.models = Models(*self.repository.open(), self.repository, controlled=True)
        self.before = self.models.open("small")
        self.go, running, run = Event(), Event(), self.before._run_graph

        def long_run(*arguments, **options):
            running.set()
            assert self.go.wait(60)
            return run(*arguments, **options)

        self.outputs = [self.ask(self.before, 0)]
        self.outputs[0].result(60)
        monkeypatch.setattr(self.before, "_run_graph", long_run)
        self.outputs.append(self.ask(self.before, 3))
        assert running.wait(60)

    def ask(self, engine, start):
        chunk = Chunk(5, start == 0, False)
        return engine.submit({"input": X[:, start : start + 3]}, sequence=chunk)

    def check(self):
        """Go on with the sequence in the engine that is there now."""
        after = self.models.open("small")
        assert after is not self.before
        self.outputs.append(self.ask(after, 6))
        output = np.concatenate([o.result(60)["output"] for o in self.outputs], axis=1)
        after.close()
        right = Session(self.path, intra_op_num_threads=1)(X)[0]
        np.testing.assert_allclose(output, right, rtol=1e-4, atol=1e-5)


def open_one(entry):
    engine = Engine(entry.path, name=entry.name, version=entry.version, threads=1)
    engine.warm_up()
    return engine


@pytest.fixture
def held(tmp_path, monkeypatch):
    """A sequence in the midst of a run."""
    return Held(export_small(tmp_path / "small.onnx"), monkeypatch)


def test_a_sequence_goes_on_after_a_run_that_outlasts_the_drain(held, monkeypatch):
    close = held.before.close

    def let_it_end():
        held.go.set()
        close()

    monkeypatch.setattr(held.before, "drain", lambda timeout: False)
    monkeypatch.setattr(held.before, "close", let_it_end)
    asyncio.run(held.models.load("small"))
    held.check()


def test_who_asked_for_a_model_to_be_loaded_may_leave(held):
    async def load_and_leave():
        loading = asyncio.create_task(held.models.load("small"))
        while held.models.get("small") is held.before:
            await asyncio.sleep(0.01)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        held.go.set()
        await asyncio.to_thread(held.check)

    asyncio.run(load_and_leave())


def test_loads_at_one_time_are_done_one_after_the_other(held, monkeypatch):
    ended = []  # whether the run before it had, when files were opened
    open_files = held.repository.open

    def opened(name):
        ended.append(held.go.is_set())
        return open_files(name)

    monkeypatch.setattr(held.repository, "open", opened)

    async def load_twice():
        loading = [asyncio.create_task(held.models.load("small")) for _ in range(2)]
        while held.models.get("small") is held.before:
            await asyncio.sleep(0.01)
        held.go.set()
        await asyncio.gather(*loading)
        await asyncio.to_thread(held.check)

    asyncio.run(load_twice())
    assert ended == [False, True]
