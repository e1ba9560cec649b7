"""What of a graph stays on the CPU beside a CUDA provider, and what is copied between the two.

ONNX Runtime keeps the arithmetic on shapes on the CPU on purpose: a kernel of the CUDA provider can
give its result there (Shape), and take inputs from there (the new shape of Reshape), and what lies
between is cheaper where the numbers are. The algorithm is that of `GetCpuPreferredNodes` in
onnxruntime/core/framework/fallback_cpu_capability.cc.
"""

import heapq
from collections import defaultdict

from onnx import NodeProto

from tools.placement.scopes import REDUCED, Scope

SMALL = 100
"""Elements of an initializer that may go to the CPU: kSmallInitializerThreshold."""

HOST_OUTPUTS = frozenset({"Shape", "Size", "SequenceLength"})
"""Operators whose CUDA kernels give their results on the CPU."""

REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
HOST_INPUTS: dict[str, tuple[int, ...]] = {
    **{f"Reduce{name}": (1,) for name in REDUCTIONS},
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (4,)),
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Dropout": (1, 2),
    "Expand": (1,),
    "If": (0,),
    "Loop": (0, 1),
    "MatMulInteger": (2, 3),
    "NonMaxSuppression": (2, 3, 4),
    "OneHot": (1, 2),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "SequenceAt": (1,),
    "SequenceErase": (1,),
    "SequenceInsert": (2,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
"""Inputs that CUDA kernels take from the CPU: `.InputMemoryType(OrtMemTypeCPUInput, ...)` where the
operators are registered, in onnxruntime/core/providers/cuda/."""


def shape_arithmetic(scope: Scope, taken: set[int], runnable: set[int]) -> set[int]:
    """Return which nodes ONNX Runtime keeps on the CPU on purpose.

    Among them are nodes without CUDA kernels that it would keep there if they had some.

    Args:
        scope: The graph; each is looked at by itself.
        taken: Indices of the nodes that the CUDA provider would take.
        runnable: Indices of those that the CPU provider can run.
    """
    consumers = defaultdict(list)
    for index, node in enumerate(scope.nodes):
        for name in node.input:
            consumers[name].append(index)
    on_host: set[str] = set()
    candidates: list[int] = []

    def give(names: list[str]) -> None:
        on_host.update(names)
        for name in names:
            for consumer in consumers[name]:
                heapq.heappush(candidates, consumer)

    for index in taken:
        if scope.nodes[index].op_type in HOST_OUTPUTS:
            give(list(scope.nodes[index].output))
    kept: set[int] = set()
    visited: set[int] = set()
    while candidates:
        index = heapq.heappop(candidates)
        if index in visited:
            continue
        visited.add(index)
        node = scope.nodes[index]
        moves = all(_may_move(scope, node, i, on_host) for i, name in enumerate(node.input) if name)
        if moves and index in runnable:
            kept.add(index)
        if moves or index not in taken:
            give(list(node.output))
    return kept


def _may_move(scope: Scope, node: NodeProto, index: int, on_host: set[str]) -> bool:
    """Whether an input lets its node go to the CPU."""
    name = node.input[index]
    # These are never taken there: the CPU provider has few kernels for them.
    if scope.dtypes.get(name) in REDUCED:
        return False
    if name in scope.inputs or scope.sizes.get(name, SMALL + 1) <= SMALL:
        return True
    return name in on_host and not _from_host(node, index)


def _from_host(node: NodeProto, index: int) -> bool:
    return not node.domain and index in HOST_INPUTS.get(node.op_type, ())


def copied(scope: Scope, on_device: set[int]) -> set[int]:
    """Return the nodes with inputs that ONNX Runtime copies between CPU and GPU for them.

    As in onnxruntime/core/optimizer/transformer_memcpy.cc: what is computed on one side and needed
    on the other, and inputs of the graph that both sides need, but no initializers.
    """
    given: dict[str, bool] = {}
    needed: dict[str, set[bool]] = defaultdict(set)
    for index, node in enumerate(scope.nodes):
        device = index in on_device
        for i, name in enumerate(node.input):
            needed[name].add(device and not _from_host(node, i))
        for name in node.output:
            given[name] = device and node.op_type not in HOST_OUTPUTS
    return {
        index
        for index, node in enumerate(scope.nodes)
        for i, name in enumerate(node.input)
        if name
        for device in [index in on_device and not _from_host(node, i)]
        if (name in given and given[name] != device)
        or (name in scope.inputs and not device and len(needed[name]) == 2)
    }
