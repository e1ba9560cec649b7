"""Where the streams are in the inputs and outputs of a graph."""

from bnlstm_deploy.export.values import BATCH
from bnlstm_deploy.verify.process import Graph


def input_batch_axes(graph: Graph) -> dict[str, int]:
    """Return the axis of the streams of each input that has one."""
    axes = {v.name: v.shape.index(BATCH) for v in graph.inputs if BATCH in v.shape}
    for entry in graph.metadata.layers:
        axes |= {entry.value_name("initial_h"): 1, entry.value_name("initial_c"): 1}
        axes |= {entry.value_name("lengths"): 0, entry.value_name("start_step"): 0}
    return axes


def batch_axes(graph: Graph) -> dict[str, int]:
    """Return the axis of the streams of each output that has one."""
    axes = {v.name: v.shape.index(BATCH) for v in graph.outputs if BATCH in v.shape}
    for entry in graph.metadata.layers:
        axes |= {entry.value_name("h_n"): 1, entry.value_name("c_n"): 1}
        axes[entry.value_name("next_step")] = 0
    return axes
