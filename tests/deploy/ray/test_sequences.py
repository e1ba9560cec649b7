"""Sequences on replicas that come and go, without a cluster."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from bnlstm_deploy.errors import OverloadedError, SequenceError
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.serve import Chunk, Engine
from bnlstm_deploy.serve.inference import InferRequest
from bnlstm_deploy.serve.models import Models
from bnlstm_deploy.serve.records import Records
from tests.serve.servers import export_small

# Ray's own, of pydantic, when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

X = np.random.default_rng(0).standard_normal((1, 12, 3)).astype(np.float32)


class Handle:
    """What Ray Serve has of a deployment: calls methods of an object that may be lost."""

    def __init__(self, target):
        self.target = target

    def options(self, session_id):
        del session_id
        return self

    def __getattr__(self, name):
        from ray.exceptions import RayError

        async def remote(*arguments):
            target = self.target()
            if target is None:
                raise RayError("lost")
            found = getattr(target, name)(*arguments)
            return await found if asyncio.iscoroutine(found) else found

        return SimpleNamespace(remote=remote)


class Cluster:
    """Replicas of one model; requests of sequences go to the one at `ring`."""

    def __init__(self, path, count):
        from bnlstm_deploy.deploy.ray_sequences import Incarnations, Routed

        self.ring, self.new = 0, Incarnations
        self.incarnations = Incarnations()
        self.engines = [Engine(path, threads=1) for _ in range(count)]
        self.replicas = []
        for engine in self.engines:
            engine.warm_up()
            own = Handle(lambda: self.replicas[self.ring])
            self.replicas.append(
                Routed(
                    Records(Models([engine])),
                    own=own,
                    incarnations=Handle(lambda: self.incarnations),
                )
            )
        for replica in self.replicas:
            replica.infer_held = replica.infer_here

    def ask(self, replica, start, stop, **ends):
        """Send a part of X to a replica, as a chunk of the sequence 5."""
        chunk = Chunk(5, ends.get("begins", False), ends.get("is_last", False))
        request = InferRequest("", {"input": X[:, start:stop]}, ["output"], chunk, None)
        routed, engine = self.replicas[replica], self.engines[replica]
        return asyncio.run(routed.infer(engine, request))["output"]


@pytest.fixture
def cluster(tmp_path):
    """Three replicas."""
    cluster = Cluster(export_small(tmp_path / "small.onnx"), 3)
    cluster.right = Session(tmp_path / "small.onnx", intra_op_num_threads=1)(X)[0]
    yield cluster
    for engine in cluster.engines:
        engine.close()


def test_chunks_may_come_by_any_replica(cluster):
    for number, replica in enumerate((0, 1, 2, 1)):
        ends = {"begins": number == 0, "is_last": number == 3}
        output = cluster.ask(replica, 3 * number, 3 * number + 3, **ends)
        np.testing.assert_allclose(
            output, cluster.right[:, 3 * number : 3 * number + 3], rtol=1e-4, atol=1e-5
        )
    with pytest.raises(SequenceError, match="no sequence 5"):
        cluster.ask(0, 0, 3)


def test_a_state_of_before_is_never_answered_from(cluster):
    """The sequence moves, is begun anew elsewhere, and moves back to where it once was."""
    cluster.ask(0, 0, 6, begins=True)
    cluster.ring = 1
    with pytest.raises(SequenceError, match="no sequence 5"):
        cluster.ask(1, 6, 9)
    cluster.ask(2, 0, 3, begins=True)
    cluster.ring = 0
    for replica in (0, 2):  # 0 has the old state still
        with pytest.raises(SequenceError, match="no sequence 5"):
            cluster.ask(replica, 3, 6)
    output = cluster.ask(1, 3, 6)  # which has the new one
    np.testing.assert_allclose(output, cluster.right[:, 3:6], rtol=1e-4, atol=1e-5)


def test_what_knows_the_beginnings_may_be_lost(cluster):
    cluster.ask(0, 0, 3, begins=True)
    known, cluster.incarnations = cluster.incarnations, None
    with pytest.raises(OverloadedError, match="what knows its sequences"):
        cluster.ask(0, 3, 6)
    with pytest.raises(OverloadedError):
        cluster.ask(1, 0, 3, begins=True)
    cluster.incarnations = known
    output = cluster.ask(0, 3, 6)
    np.testing.assert_allclose(output, cluster.right[:, 3:6], rtol=1e-4, atol=1e-5)
    cluster.incarnations = cluster.new()  # it was started anew
    with pytest.raises(SequenceError, match="no sequence 5"):
        cluster.ask(0, 6, 9)


def test_a_replica_that_is_lost_loses_its_sequences(cluster):
    cluster.ask(1, 0, 3, begins=True)
    cluster.replicas[0] = None
    with pytest.raises(SequenceError, match="was lost; send it anew from its start"):
        cluster.ask(1, 3, 6)


def test_requests_for_other_replicas_are_bounded(cluster):
    cluster.replicas[1]._sent = cluster.engines[1].limits.max_queue
    with pytest.raises(OverloadedError, match="wait for other replicas"):
        cluster.ask(1, 0, 3, begins=True)
