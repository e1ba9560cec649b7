"""Which branches of the layers' bodies are run, and the sizes that run the others."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx.inliner
from onnx import GraphProto, ModelProto, NodeProto, helper

from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.signature import Array
from bnlstm_deploy.verification.judging.structure import Finding
from bnlstm_deploy.verification.measuring.cases import Case, Lengths
from bnlstm_deploy.verification.measuring.least import least
from bnlstm_deploy.verification.measuring.process import Graph

SHORT = 2
"""Timesteps of the cases whose sizes are searched for."""


class Branches:
    """Follows the Ifs of the layers' bodies, on a copy of the graph that says which way they go.

    An If in a branch of another is followed, too; one in the body of a Scan or Loop is not.

    Args:
        proto: The file, with the functions of its nodes.
        open_copy: Opens the copy.

    Attributes:
        ran: Whether each branch was run, by what it is called.
    """

    def __init__(self, proto: ModelProto, open_copy: Callable[[ModelProto], Graph]) -> None:
        # Of an inlined file nobody can tell which are the layers' own: all are followed.
        inlined = not proto.functions
        own = {o for n in proto.graph.node if n.op_type == "If" and not inlined for o in n.output}
        copy = onnx.inliner.inline_local_functions(proto)
        followed = [n for n in copy.graph.node if n.op_type == "If" and not own & set(n.output)]
        del copy.graph.output[:]
        self.ran: dict[str, bool] = {}
        for number, node in enumerate(followed):
            names = _follow(node, f"branches_ran_{number}", f"If {number + 1}")
            self.ran |= dict.fromkeys(names, False)
            output = helper.make_tensor_value_info(
                node.output[-1], onnx.TensorProto.INT64, [len(names)]
            )
            copy.graph.output.append(output)
        self._outputs = [value.name for value in copy.graph.output]
        self._graph = open_copy(copy) if followed else None

    def note(self, feeds: Mapping[str, Array]) -> None:
        """Note the branches that these inputs run."""
        self.ran |= dict.fromkeys(self._of(feeds), True)

    def case(
        self, draw: Callable[[Case], Mapping[str, Array]], most: int, lengths: Lengths | None
    ) -> Case | None:
        """Return the case of the fewest streams that runs a branch which was not run yet, if any.

        Args:
            draw: Draws the inputs of a case.
            most: Streams of a case.
            lengths: Of the case.
        """

        def new(batch: int) -> Case | None:
            case = Case(SHORT, batch, state=True, lengths=lengths)
            return None if all(self.ran[name] for name in self._of(draw(case))) else case

        return None if all(self.ran.values()) else least(new, most)

    @property
    def finding(self) -> Finding:
        """Whether all branches were run."""
        missing = [name for name, ran in self.ran.items() if not ran]
        detail = f"all {len(self.ran)} branches of the layers' bodies were run"
        if missing:
            detail = f"of {len(self.ran)} were never run: {', '.join(missing)}"
        return Finding("branches", not missing, detail if self.ran else "the layers have none")

    def _of(self, feeds: Mapping[str, Array]) -> list[str]:
        """Return the branches that these inputs run."""
        if self._graph is None:
            return []
        try:
            results = self._graph.run_unchecked(feeds)
        except RuntimeSessionError:  # the graph itself fails likewise, which is a result of its own
            return []
        ran = np.concatenate([results[name] for name in self._outputs])
        return [name for name, one in zip(self.ran, ran, strict=True) if one]


def _follow(node: NodeProto, output: str, name: str) -> list[str]:
    """Add an output to an If that holds, for each branch in it, whether it was run.

    Returns:
        What the branches are called, in order.
    """
    branches = {a.name.removesuffix("_branch"): a.g for a in node.attribute}
    inner: dict[str, list[str]] = {}
    names: dict[str, list[str]] = {}
    for kind, graph in branches.items():
        nested = [n for n in graph.node if n.op_type == "If"]
        names[kind] = [f"{name}: {kind}"]
        for number, one in enumerate(nested):
            found = _follow(one, f"{output}_{kind}_{number}", f"{name}: {kind}, If {number + 1}")
            names[kind] += found
        inner[kind] = [one.output[-1] for one in nested]
    for kind, graph in branches.items():
        parts = [
            part
            for other in branches
            for part in _parts(graph, f"{output}_in_{kind}", other, names, inner, ran=other == kind)
        ]
        result = f"{output}_of_{kind}"
        graph.node.append(helper.make_node("Concat", parts, [result], axis=0))
        size = [sum(map(len, names.values()))]
        graph.output.append(helper.make_tensor_value_info(result, onnx.TensorProto.INT64, size))
    node.output.append(output)
    return [name for kind in branches for name in names[kind]]


def _parts(
    graph: GraphProto,
    prefix: str,
    kind: str,
    names: Mapping[str, list[str]],
    inner: Mapping[str, list[str]],
    *,
    ran: bool,
) -> list[str]:
    """Add what a branch says of itself, or of the other one, to its graph."""
    values = [1] if ran else [0] * len(names[kind])
    result = f"{prefix}_{kind}"
    graph.node.append(helper.make_node("Constant", [], [result], value_ints=values))
    return [result, *(inner[kind] if ran else [])]
