"""1,000 live streams in one process, in chunks: python -m tests.serve.soak MODEL.onnx CHUNKS.

Half of them have their state in the engine, half send it along. Each starts in another round and
ends after chunks of its own number, when a new one takes its place, so that at any time they are at
many steps. Prints the resident bytes after each tenth of the chunks, and how many outputs of whole
streams were compared with a session's, and by how much they differ at most.
"""

import json
import sys
from pathlib import Path

import numpy as np

from bnlstm_deploy.runtime import Session
from bnlstm_deploy.serve import Chunk, Engine, Limits
from bnlstm_deploy.signature import Array

STREAMS = 1000
FEATURES = 3
LONGEST = 5
"""Timesteps of a chunk at most."""
COMPARED = 50
"""Of the streams, one of this many is compared with a session."""

NEXT = {"initial_h": "h_n", "initial_c": "c_n", "start_step": "next_step"}


class Stream:
    """One stream; the engine holds the state of those with an odd id."""

    def __init__(self, engine: Engine, id: int, generator: np.random.Generator) -> None:
        self.engine = engine
        self.id = id
        self.held = id % 2 == 1
        self.left = int(generator.integers(5, 40))
        self.state: dict[str, Array] = {}
        self.started = False
        self.chunks: list[Array] = []
        self.outputs: list[Array] = []

    def send(self, x: Array) -> None:
        """Send the next chunk, (1, T, D)."""
        self.left -= 1
        turn = Chunk(self.id, not self.started, self.left == 0) if self.held else None
        self.started = True
        if self.id % COMPARED in (0, 1):
            self.chunks.append(x)
        self.answer = self.engine.submit({"input": x} | self.state, sequence=turn)

    def take(self) -> None:
        """Wait for the answer."""
        results = self.answer.result(60)
        if not self.held:
            self.state = {name: results[result] for name, result in NEXT.items()}
        if self.chunks:
            self.outputs.append(results["output"])


def main(path: str, chunks: int) -> None:
    """Run the streams."""
    engine = Engine(path, limits=Limits(max_wait=0, max_sequences=STREAMS))
    session = Session(path)
    generator = np.random.default_rng(0)
    streams = [Stream(engine, id, generator) for id in range(1, STREAMS + 1)]
    resident, steps = [], set()
    sent, compared, difference = 0, 0, 0.0
    while sent < chunks:
        for stream in streams:
            time = int(generator.integers(1, LONGEST + 1))
            stream.send(generator.standard_normal((1, time, FEATURES), np.float32))
        sent += STREAMS
        for place, stream in enumerate(streams):
            stream.take()
            if not stream.held:
                steps.add(int(stream.state["start_step"][0]))
            if stream.left == 0:
                if stream.chunks:
                    whole, _ = session(np.concatenate(stream.chunks, axis=1))
                    answered = np.concatenate(stream.outputs, axis=1)
                    difference = max(difference, float(np.abs(whole - answered).max()))
                    compared += 1
                streams[place] = Stream(engine, stream.id + STREAMS, generator)
        if sent * 10 % chunks == 0:
            resident.append(_resident())
    stats = engine.stats()
    engine.close()
    result = {
        "resident": resident,
        "steps": len(steps),
        "compared": compared,
        "difference": difference,
        "chunks": stats.inferences,
        "batch": stats.inferences / stats.executions,
        "sequences": stats.sequences,
        "failures": dict(stats.failures),
    }
    sys.stdout.write(json.dumps(result) + "\n")


def _resident() -> int:
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
