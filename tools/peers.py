"""The implementations that the benchmark compares, each loaded by one function."""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.native import library_path
from bnlstm_deploy.nn import BNLSTM, StepwiseBatchNorm
from bnlstm_deploy.runtime import Buckets, Session
from bnlstm_deploy.runtime.kernel import choosing
from bnlstm_deploy.runtime.providers import resolve
from tools.unfolded import export_unfolded

OPSET = 20
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes
MEGABYTE = 1e6
MIN_ROUNDS = 5
PAUSE = 0.1  # seconds; for some 20 ms the threads of the peer before still wait actively

Peer = TypeVar("Peer")

Array = NDArray[np.float32]
Run = Callable[[Array], Array]
"""(T, N, D) to (T, N, H)."""


@dataclass(frozen=True)
class Size:
    """The size of a model and of its input."""

    N: int
    """Streams."""
    T: int
    """Timesteps, of the input and with statistics of their own."""
    D: int
    """Features of the input."""
    H: int
    """Features of the state."""

    def __str__(self) -> str:
        return f"{self.N},{self.T},{self.D},{self.H}"


@dataclass(frozen=True)
class Setup:
    """What the peers have in common; equal setups load equal weights in every process."""

    size: Size
    seed: int
    threads: int
    """Inside an operator."""
    provider: str
    """Of ONNX Runtime."""
    folder: Path
    """Holds the ONNX files, one for each of WRITERS."""

    @property
    def device(self) -> str:
        """Of the torch peers."""
        return "cpu" if self.provider == "cpu" else "cuda"

    def file(self, peer: str) -> Path:
        """Return the ONNX file of a peer."""
        return self.folder / f"{FILES.get(peer, peer)}.onnx"


def random_input(setup: Setup) -> Array:
    """Return the input, (T, N, D)."""
    shape = (setup.size.T, setup.size.N, setup.size.D)
    return np.random.default_rng(setup.seed).standard_normal(shape, dtype=np.float32)


def random_bnlstm(size: Size, seed: int) -> BNLSTM:
    """Return a BNLSTM in evaluation that looks trained to the fold: no statistic is trivial."""
    torch.manual_seed(seed)
    model = BNLSTM(size.D, size.H, max_length=size.T).eval()
    randomize(model)
    return model


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Draw the statistics, gamma and beta of every normalization in place."""
    for norm in model.modules():
        if isinstance(norm, StepwiseBatchNorm):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 2)
            norm.weight.uniform_(0.5, 1)
            if norm.bias is not None:
                norm.bias.normal_(0, 0.1)


def random_lstm(size: Size, seed: int) -> nn.LSTM:
    """Return a plain LSTM in evaluation."""
    torch.manual_seed(seed)
    return nn.LSTM(size.D, size.H).eval()


def write_deployed(size: Size, seed: int, path: Path) -> None:
    """Fold and export the BNLSTM."""
    export(random_bnlstm(size, seed), path)


def write_for_cuda(
    size: Size, seed: int, path: Path, *, dtype: torch.dtype = torch.float32
) -> None:
    """Fold and export the BNLSTM for a GPU, for any number of timesteps."""
    export(random_bnlstm(size, seed), path, target="cuda", dtype=dtype)


def write_unrolled(size: Size, seed: int, path: Path) -> None:
    """Fold and export the BNLSTM for a GPU without the native kernel."""
    export(random_bnlstm(size, seed), path, target="cuda", length=size.T)


def write_unfolded(size: Size, seed: int, path: Path) -> None:
    """Export the BNLSTM without folding it."""
    export_unfolded(random_bnlstm(size, seed), path)


def write_lstm_operator(size: Size, seed: int, path: Path) -> None:
    """Write the plain LSTM as one node, ONNX's LSTM operator."""
    state = random_lstm(size, seed).state_dict()
    weights = {name: to_onnx_gates(parameter) for name, parameter in state.items()}
    constants = {
        "W": weights["weight_ih_l0"],
        "R": weights["weight_hh_l0"],
        "B": np.concatenate([weights["bias_ih_l0"], weights["bias_hh_l0"]]),
        "direction_axis": np.array([1]),
    }
    initializers = [
        onnx.numpy_helper.from_array(array if name == "direction_axis" else array[None], name)
        for name, array in constants.items()
    ]
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("LSTM", ["input", "W", "R", "B"], ["Y"], hidden_size=size.H),
            onnx.helper.make_node("Squeeze", ["Y", "direction_axis"], ["output"]),
        ],
        "lstm",
        [onnx.helper.make_tensor_value_info("input", real, ["time", "batch", size.D])],
        [onnx.helper.make_tensor_value_info("output", real, ["time", "batch", size.H])],
        initializers,
    )
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def to_onnx_gates(parameter: torch.Tensor) -> Array:
    """Reorder the gates of (4H, ...) from torch's i, f, g, o to ONNX's i, o, f, g."""
    i, f, g, o = np.split(parameter.numpy(), 4)
    return np.concatenate([i, o, f, g])


def load_deployed(setup: Setup, *, native: bool = True) -> Run:
    """Load the folded graph as a user does, with the native kernel or its function body."""
    session = Session(
        setup.file("deployed"),
        providers=(setup.provider,),
        intra_op_num_threads=setup.threads,
        native=native,
    )
    if setup.provider == "cpu" and native and not session.native:
        raise RuntimeSessionError(session.native.reason)
    return lambda x: np.asarray(session(x)[0])


def load_captured(setup: Setup) -> Run:
    """Load the folded graph as a CUDA graph, on the native kernel."""
    buckets = Buckets(
        setup.file("deployed"),
        lengths=(setup.size.T,),
        batches=(setup.size.N,),
        providers=(setup.provider,),
        capture=True,
    )
    return lambda x: np.asarray(buckets(x)[0])


def load_unrolled(setup: Setup) -> Run:
    """Load the graph of standard operators that starts the fewest kernels, as a CUDA graph."""
    batches, providers = (setup.size.N,), (setup.provider,)
    with choosing("0"):
        buckets = Buckets(
            setup.file("unrolled"), batches=batches, providers=providers, capture=True
        )
    return lambda x: np.asarray(buckets(x)[0])


def load_launches(launches: str, file: str, setup: Setup) -> Run:
    """Load a folded graph as a CUDA graph on one of the native kernel's ways to launch.

    Args:
        launches: `step` or `sequence`.
        file: The peer whose file it is.
        setup: What is measured.
    """
    options = ort.SessionOptions()
    for key, value in (("bnlstm.provider", "cuda"), ("bnlstm.launches", launches)):
        options.add_session_config_entry(key, value)
    options.register_custom_ops_library(str(library_path()))
    session = ort.InferenceSession(
        setup.file(file), options, resolve((setup.provider,), capture=True), enable_fallback=0
    )
    size, binding = setup.size, session.io_binding()
    x = ort.OrtValue.ortvalue_from_numpy(random_input(setup), "cuda", 0)
    y = ort.OrtValue.ortvalue_from_shape_and_type([size.T, size.N, size.H], np.float32, "cuda", 0)
    binding.bind_ortvalue_input("input", x)
    binding.bind_ortvalue_output("output", y)
    for value in session.get_outputs()[1:]:
        binding.bind_output(value.name, "cuda")

    def run(array: Array) -> Array:
        x.update_inplace(array)
        session.run_with_iobinding(binding)
        return np.asarray(y.numpy())

    return run


def load_eager(setup: Setup) -> Run:
    """Build the training model."""
    return torch_run(random_bnlstm(setup.size, setup.seed), setup)


def load_torch_lstm(setup: Setup) -> Run:
    """Build torch's own LSTM, which normalizes nothing; on CUDA it is cuDNN's."""
    return torch_run(random_lstm(setup.size, setup.seed), setup)


def torch_run(model: nn.Module, setup: Setup) -> Run:
    """Return a function that calls a torch module with numpy arrays, on the provider's device."""
    torch.set_num_threads(setup.threads)
    torch.backends.cudnn.allow_tf32 = False  # as in the deployed graph
    model = model.to(setup.device)

    @torch.inference_mode()
    def run(x: Array) -> Array:
        output: Array = model(torch.from_numpy(x).to(setup.device))[0].numpy(force=True)
        return output

    return run


def load_onnxruntime(peer: str, setup: Setup) -> Run:
    """Load the graph of a peer on ONNX Runtime as it comes, without this package."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = setup.threads
    session = ort.InferenceSession(
        setup.file(peer), options, providers=resolve((setup.provider,)), enable_fallback=0
    )
    return lambda x: np.asarray(session.run(["output"], {"input": x})[0])


LOADERS: dict[str, Callable[[Setup], Run]] = {
    "native": load_deployed,
    "function body": partial(load_deployed, native=False),
    "eager": load_eager,
    "torch lstm": load_torch_lstm,
    "lstm operator": partial(load_onnxruntime, "lstm operator"),
    "unfolded": partial(load_onnxruntime, "unfolded"),
}
WRITERS: dict[str, Callable[[Size, int, Path], None]] = {
    "deployed": write_deployed,
    "lstm operator": write_lstm_operator,
    "unfolded": write_unfolded,
}
ON_CUDA: dict[str, Callable[[Setup], Run]] = {
    "native": load_captured,
    "native, not captured": load_deployed,
    "native, step": partial(load_launches, "step", "deployed"),
    "native, sequence": partial(load_launches, "sequence", "deployed"),
    "float16, step": partial(load_launches, "step", "float16"),
    "float16, sequence": partial(load_launches, "sequence", "float16"),
    "unrolled": load_unrolled,
}
"""Peers on CUDA, in the place of those on the CPU; all but the second are captured."""

SEQUENCES = {"native, sequence": 64, "float16, sequence": 128}
"""The most hidden units that all timesteps are one launch for."""

WRITERS_ON_CUDA: dict[str, Callable[[Size, int, Path], None]] = {
    "deployed": write_for_cuda,
    "float16": partial(write_for_cuda, dtype=torch.float16),
    "unrolled": write_unrolled,
}

FILES = dict.fromkeys(
    ("native", "function body", "native, not captured", "native, step", "native, sequence"),
    "deployed",
) | dict.fromkeys(("float16, step", "float16, sequence"), "float16")
"""The files of peers that have none of their own."""

BNLSTM_PEERS = ("native", "function body", *list(ON_CUDA)[1:], "unfolded", "eager")
"""Those that compute the BNLSTM. The others compute a plain LSTM."""


def loaders(provider: str, size: Size) -> dict[str, Callable[[Setup], Run]]:
    """Return the peers on a provider, first the one that the others are compared with."""
    if provider == "cpu":
        return LOADERS
    there = {n: load for n, load in ON_CUDA.items() if SEQUENCES.get(n, size.H) >= size.H}
    return {**there, **_others(LOADERS)}


def writers(provider: str) -> dict[str, Callable[[Size, int, Path], None]]:
    """Return what writes the peers' files for a provider."""
    return WRITERS if provider == "cpu" else {**WRITERS_ON_CUDA, **_others(WRITERS)}


def _others(peers: dict[str, Peer]) -> dict[str, Peer]:
    own = {"deployed", "native", "function body"}
    return {peer: value for peer, value in peers.items() if peer not in own}


def compare(runs: dict[str, Run], x: Array) -> dict[str, float]:
    """Return the largest absolute difference of each peer's output from that of torch's model."""
    outputs = {peer: run(x) for peer, run in runs.items()}
    pairs = [
        (peer, "eager" if peer in BNLSTM_PEERS else "torch lstm")
        for peer in runs
        if peer not in {"eager", "torch lstm"}
    ]
    return {f"{a} - {b}": float(np.abs(outputs[a] - outputs[b]).max()) for a, b in pairs}


@torch.inference_mode()
def errors(runs: dict[str, Run], setup: Setup, x: Array) -> dict[str, float]:
    """Return the largest absolute error of those that compute the BNLSTM, against float64."""
    model = random_bnlstm(setup.size, setup.seed).double()
    truth = model(torch.from_numpy(x).double())[0].numpy()
    own = (peer for peer in BNLSTM_PEERS if peer in runs)
    return {peer: float(np.abs(runs[peer](x) - truth).max()) for peer in own}


def interleave(runs: dict[str, Run], x: Array, seconds: float) -> dict[str, list[float]]:
    """Return the times of each peer in milliseconds, one for each round.

    In each round every peer runs twice on the same input. The second run is timed; the first, after
    a pause, makes it independent of the peer before.
    """
    times: dict[str, list[float]] = {peer: [] for peer in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < MIN_ROUNDS:
        for peer, run in runs.items():
            time.sleep(PAUSE)
            run(x)
            start = time.perf_counter()
            run(x)
            times[peer].append((time.perf_counter() - start) * 1e3)
    return times


def peak_memory(peer: str, setup: Setup) -> float:
    """Return what a peer adds to the peak memory of a process of its own, in megabytes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tools.peers"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(added_memory, peer, setup).result()


def added_memory(peer: str, setup: Setup) -> float:
    """Load and run a peer, and return what that added to this process's peak, in megabytes."""
    x = random_input(setup)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = loaders(setup.provider, setup.size)[peer](setup)
    for _ in range(2):
        run(x)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * MAXRSS_UNIT / MEGABYTE
