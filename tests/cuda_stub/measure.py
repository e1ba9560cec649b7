"""Runs files on the CUDA provider over the stub libraries, and tells what it did."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from bnlstm_deploy.native import library_path
from tests.cuda_stub import counts
from tests.cuda_stub.cases import FILES, GIVEN, LENGTHS, STREAMS, D, File, H
from tests.cuda_stub.counts import Counts
from tests.exporting.nodes import all_nodes

CUDA = "CUDAExecutionProvider"
CAPTURED = "captured"


@dataclass(frozen=True)
class Row:
    """What was counted of a file with some of its optional inputs given."""

    form: str
    folding: str
    of: str
    dtype: str
    layers: int
    directions: int
    given: str
    step: dict[str, int]
    """Kernels, products, copies and waits a timestep: what one more timestep adds."""
    rest: dict[str, int]
    """The same of the whole run without its timesteps; beside them calls of cuDNN's LSTM."""
    cpu: dict[str, int] = field(default_factory=dict)
    """Nodes that ONNX Runtime places on the CPU, by operator."""
    memcpy: int = 0
    """Nodes that ONNX Runtime inserts to copy between the CPU and the device."""
    graph: str = CAPTURED
    """Whether a CUDA graph is captured, or ONNX Runtime's message where it refuses."""


def rows(file: File, folder: Path) -> Iterator[Row]:
    """Yield a row for each set of optional inputs."""
    kind = file.kind
    optimized = folder / "optimized.onnx"
    launches = kind.folding if kind.native else None
    sessions = [
        open_session(file.write(folder, time), optimized=optimized, launches=launches)
        for time in LENGTHS
    ]
    cpu, memcpy = placed_on_cpu(sessions[-1]), inserted_copies(optimized)
    graph = graph_of(file, folder)
    counts.set_result(1)  # a stream is short, where that is computed on the device
    for given in GIVEN:
        fewer, more = (
            _tally(run_once(session, feeds(file, given, time), on_device=kind.native))
            for session, time in zip(sessions, LENGTHS, strict=True)
        )
        step = {what: _quotient(more[what] - fewer[what]) for what in more}
        rest = {what: count - LENGTHS[-1] * step[what] for what, count in more.items()}
        assert step.pop("cuDNN") == 0
        yield Row(
            *(kind.form, kind.folding, kind.of, file.dtype, file.layers, file.directions, given),
            *(step, rest, dict(sorted(cpu.items())), memcpy, graph),
        )


def all_rows(folder: Path) -> list[Row]:
    """Return the rows of all files."""
    return [row for file in FILES for row in rows(file, folder)]


def graph_of(file: File, folder: Path) -> str:
    """Return CAPTURED, or why ONNX Runtime refuses to capture a CUDA graph of the file."""
    try:
        launches = file.kind.folding if file.kind.native else None
        open_session(file.write(folder, LENGTHS[-1]), graph=True, launches=launches)
    except RuntimeError as error:
        return str(error).rpartition(" : ")[2].strip()
    return CAPTURED


def open_session(
    model: Path | onnx.ModelProto,
    *,
    graph: bool = False,
    optimized: Path | None = None,
    plain: bool = False,
    launches: str | None = None,
) -> ort.InferenceSession:
    """Load a model on the CUDA provider; nodes that it does not take go to the CPU.

    Args:
        model: A file, or the model itself.
        graph: Whether runs are captured and replayed.
        optimized: Where to write the graph that is run.
        plain: Whether it is run as it is, without optimizations.
        launches: `step` or `sequence` of the native kernel; None for the function body.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if plain:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    if launches is not None:
        options.add_session_config_entry("bnlstm.provider", "cuda")
        options.add_session_config_entry("bnlstm.launches", launches)
        options.register_custom_ops_library(str(library_path()))
    providers = [(CUDA, {"enable_cuda_graph": str(int(graph)), "use_tf32": "0"})]
    data = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        session = ort.InferenceSession(data, options, [*providers, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise RuntimeError(str(error)) from error
    assert session.get_providers()[0] == CUDA
    return session


def placed_on_cpu(session: ort.InferenceSession) -> Counter[str]:
    """Return the operators of the nodes that are not on CUDA."""
    return Counter(
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
        if part.ep_name != CUDA
    )


def inserted_copies(optimized: Path) -> int:
    """Return how many copies between the CPU and the device are in a graph that is run."""
    nodes = all_nodes(onnx.load(optimized).graph.node)
    return sum(node.op_type.startswith("Memcpy") for node in nodes)


def feeds(file: File, given: str, time: int) -> dict[str, Any]:
    """Return inputs of a file, with the optional ones that are given."""
    arrays: dict[str, Any] = {"input": np.zeros((time, STREAMS, D), np.float32)}
    if "state" in given:
        state = np.zeros((file.layers * file.directions, STREAMS, H), np.float32)
        arrays |= {"initial_h": state, "initial_c": state}
    if "lengths" in given:
        arrays["lengths"] = np.full(STREAMS, time)
        arrays["lengths"][0] -= 1
    return arrays


def bind(
    session: ort.InferenceSession, arrays: dict[str, Any], *, on_cpu: Sequence[str] = ()
) -> ort.IOBinding:
    """Bind inputs and outputs to memory of the device; inputs named so to memory of the CPU."""
    binding = session.io_binding()
    for name, array in arrays.items():
        device = "cpu" if name in on_cpu else "cuda"
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, device, 0))
    time, streams = arrays["input"].shape[:2]
    for value in session.get_outputs():
        shape = [{"time": time, "batch": streams}.get(d, d) for d in value.shape]
        element = np.int64 if value.type == "tensor(int64)" else arrays["input"].dtype
        made = ort.OrtValue.ortvalue_from_shape_and_type(shape, element, "cuda", 0)
        binding.bind_ortvalue_output(value.name, made)
    return binding


def run_once(
    session: ort.InferenceSession, arrays: dict[str, Any], *, on_device: bool = False
) -> Counts:
    """Return what one run does after a first one, which allocates.

    Args:
        session: The session.
        arrays: Inputs by name.
        on_device: Whether lengths are on the device; else they are passed as Session does.
    """
    binding = bind(session, arrays, on_cpu=() if on_device else ("lengths",))
    session.run_with_iobinding(binding)
    with counted() as results:
        session.run_with_iobinding(binding)
    return results[0]


@contextmanager
def counted() -> Iterator[list[Counts]]:
    """Count what is done in the block; the list has the counts at its end."""
    results: list[Counts] = []
    counts.reset()
    yield results
    results.append(counts.read())


def _tally(counts_: Counts) -> dict[str, int]:
    assert not counts_.errors, counts_.errors
    return {
        "kernels": counts_.kernels.total() + counts_.memsets.total(),
        "products": counts_.gemms.total(),
        "D2D": counts_.copies["D2D"],
        "H2D": counts_.copies["H2D"],
        "D2H": counts_.copies["D2H"],
        "waits": counts_.syncs.total(),
        "cuDNN": counts_.rnns.total(),
    }


def _quotient(difference: int) -> int:
    steps = LENGTHS[1] - LENGTHS[0]
    assert difference % steps == 0, f"{difference} in {steps} timesteps"
    return difference // steps
