"""The inputs of cases, drawn at random."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from bnlstm_deploy.signature import Array
from bnlstm_deploy.verification.measuring.cases import Case, Sample, make_given
from bnlstm_deploy.verification.measuring.process import Graph
from bnlstm_deploy.verification.measuring.trial import Trial

MEMORY = 9 * 2**25
"""Bytes that a run of a case may take."""


@dataclass(frozen=True)
class Draw:
    """Draws the inputs, states, lengths and start steps of cases."""

    graph: Graph
    """For its names."""
    sample: Sample
    """Makes the model's own inputs."""
    generator: np.random.Generator
    """Of everything random."""
    lengths: Collection[str] = ()
    """Names of the model's own inputs that are valid timesteps."""

    def __call__(self, case: Case) -> Trial:
        """Draw all that a case calls for."""
        fixed = self.graph.metadata.length is not None
        times = (case.chunks if fixed else ()) or (case.time,)
        parts = [self.inputs(case.batch, time) for time in times]
        given = make_given(case, self.graph.metadata.layers, self.generator)
        taken = {value.name for value in self.graph.state_inputs}
        for entry in self.graph.metadata.layers:
            state = {entry.value_name("initial_h"), entry.value_name("initial_c")}
            if not state <= taken:  # one without the other is refused
                taken -= state
        parts[0] |= {name: array for name, array in given.items() if name in taken}
        return Trial(self.graph, case, parts, self.lengths)

    def inputs(self, batch: int, time: int) -> dict[str, Array]:
        """Draw the model's own inputs."""
        tensors = self.sample(self.generator, batch, time)
        arrays = [tensor.numpy(force=True) for tensor in tensors]
        return {v.name: array for v, array in zip(self.graph.inputs, arrays, strict=True)}

    def most_streams(self, time: int) -> int:
        """Return how many streams of T timesteps a case may have, so that memory is bounded."""
        return max(1, MEMORY // self.graph.signature.run_bytes(1, time))
