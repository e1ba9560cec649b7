"""Measure on a GPU up to how many streams one launch for all timesteps is faster than one for each.

    make tune

For each kernel `sequence` that this GPU has, it times both ways over more and more waves, that is
blocks a multiprocessor, and writes the most for which `sequence` is the faster one into
bnlstm_deploy/native/cuda/tuned.json, beside what other GPUs gave. The library has to be built again
with it: python -m bnlstm_deploy.native.build. This was never run on a GPU yet.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper

from bnlstm_deploy.atomic import replacing
from bnlstm_deploy.dtypes import ELEMENT_TYPES
from bnlstm_deploy.native import library_path
from bnlstm_deploy.native.build import TUNED
from tools.cuda_kernels import read

TIME = 64
"""Timesteps of a run."""
WAVES = (1, 2, 4, 8)
ROUNDS = 20


def main() -> None:
    """Measure, and write the table."""
    if not torch.cuda.is_available():
        sys.exit("error: torch finds no GPU; run this on a machine with one")
    major, minor = torch.cuda.get_device_capability()
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    found: dict[str, dict[str, int]] = {}
    for built in read()[1]:
        name, _, units = built.kernel.partition(" ")
        if name != "sequence" or built.capability != 10 * major + minor:
            continue
        streams = built.tiles["BN"] * processors
        best = most_waves(partial(runner, built.kind, int(units), streams))
        found.setdefault(built.kind, {})[units] = best
        print(f"{built.kind}, up to {units} units: {best} blocks a multiprocessor")
    table = json.loads(TUNED.read_text(encoding="utf-8")) | {f"{major}{minor}": found}
    with replacing(TUNED) as temporary:
        temporary.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def most_waves(make: Callable[[str, int], Callable[[], None]]) -> int:
    """Return the most waves up to which `sequence` is faster each time; 0 where it never is.

    Args:
        make: Makes what runs one of `step` and `sequence` for a number of waves.
    """
    best = 0
    for waves in WAVES:
        runs = {launches: make(launches, waves) for launches in ("step", "sequence")}
        if least(runs["sequence"]) >= least(runs["step"]):
            break
        best = waves
    return best


def least(run: Callable[[], None]) -> float:
    """Return the least seconds of many runs."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])  # the first loads the kernels


def runner(
    kind: str, units: int, streams: int, launches: str, waves: int = 1
) -> Callable[[], None]:
    """Return what runs a node with everything on the GPU, and waits for it.

    Args:
        kind: One of `tools.cuda_kernels.KINDS`.
        units: H; D is 1.
        streams: N of a wave.
        launches: `step` or `sequence`.
        waves: How many there are.
    """
    streams *= waves
    dtype = "float32" if kind == "tf32" else kind
    operand, other = ELEMENT_TYPES[dtype], TensorProto.FLOAT
    inputs = {
        "X": (operand, (TIME, streams, 1)),
        "weight_ih": (operand, (4 * units, 1)),
        "weight_hh": (operand, (4 * units, units)),
        "bias": (other, (TIME, 4 * units)),
        "initial_h": (other, (1, units)),
        "initial_c": (other, (1, units)),
        "hidden_scale": (other, (TIME, 4 * units)),
        "cell_scale": (other, (TIME, units)),
        "cell_shift": (other, (TIME, units)),
    }
    order = (*list(inputs)[:6], "", *list(inputs)[6:])
    graph = helper.make_graph(
        [helper.make_node("BNLSTM", order, ["Y"], domain="bnlstm")],
        "tune",
        [helper.make_tensor_value_info(name, *of) for name, of in inputs.items()],
        [helper.make_tensor_value_info("Y", operand, None)],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("bnlstm", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = ort.SessionOptions()
    tf32 = str(int(kind == "tf32"))
    entries = {"provider": "cuda", "launches": launches, "use_tf32": tf32}
    for key, value in entries.items():
        options.add_session_config_entry(f"bnlstm.{key}", value)
    options.register_custom_ops_library(str(library_path()))
    session = ort.InferenceSession(
        model.SerializeToString(), options, ["CUDAExecutionProvider"], enable_fallback=0
    )
    binding = session.io_binding()
    random = np.random.default_rng(0)
    for name, (element, shape) in inputs.items():
        array = 0.1 * random.standard_normal(shape, dtype=np.float32)
        binding.bind_ortvalue_input(name, on_device(array, element))
    binding.bind_output("Y", "cuda")

    def run() -> None:
        session.run_with_iobinding(binding)  # which waits for its end

    return run


def on_device(array: np.ndarray[Any, Any], element: int) -> ort.OrtValue:
    """Return an array on the GPU as a dtype of ONNX's, bfloat16 among them."""
    made: ort.OrtValue
    if element == TensorProto.BFLOAT16:
        made = ort.OrtValue.ortvalue_from_shape_and_type(array.shape, element, "cuda", 0)
        made.update_inplace((array.view(np.uint32) >> 16).astype(np.uint16))  # cut off: no matter
        return made
    array = array.astype(helper.tensor_dtype_to_np_dtype(element))
    made = ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0)
    return made


if __name__ == "__main__":
    main()
