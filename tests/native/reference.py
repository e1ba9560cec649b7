"""The operator `bnlstm::BNLSTM` in numpy, written from docs/operator.md; and files of one node."""

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from bnlstm_deploy.native import library_path
from bnlstm_deploy.runtime.kernel import choosing

Array = np.ndarray

INPUTS = (
    *("X", "weight_ih", "weight_hh", "bias", "initial_h", "initial_c", "input_scale"),
    *("hidden_scale", "cell_scale", "cell_shift", "lengths", "start_step", "rows"),
)
OUTPUTS = ("Y", "Y_h", "Y_c")


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x) without overflow."""
    e = np.exp(-np.abs(x))
    result: Array = np.where(x < 0, e, 1) / (1 + e)
    return result


def compute(inputs: dict[str, Array], dtype: type = np.float64) -> dict[str, Array]:
    """Return the outputs of the operator, each step computed in `dtype`.

    Args:
        inputs: Arrays by name; an optional input that is left empty is absent.
        dtype: float64 for the truth, float32 for an error that is no worse than necessary.
    """
    given = {n: a.astype(dtype) if a.dtype.kind == "f" else a for n, a in inputs.items()}
    x, weight_ih, weight_hh, bias = (given[name] for name in INPUTS[:4])
    (time, batch, _), hidden = x.shape, weight_hh.shape[1]
    h = np.broadcast_to(given["initial_h"], (batch, hidden)).copy()
    c = np.broadcast_to(given["initial_c"], (batch, hidden)).copy()
    lengths = np.broadcast_to(given.get("lengths", np.array([time])), (batch,))
    start = np.broadcast_to(given.get("start_step", np.array([0])), (batch,))
    rows = given.get("rows", np.arange(len(bias)))
    one: Array = np.ones((len(bias), 1), dtype)
    input_scale, hidden_scale = (given.get(n, one) for n in ("input_scale", "hidden_scale"))
    cell_scale, cell_shift = given.get("cell_scale", one), given.get("cell_shift", 0 * one)
    y: Array = np.zeros((time, batch, hidden), dtype)
    for t in range(time):
        for n in np.flatnonzero(t < lengths):
            k = rows[min(int(start[n]) + t, len(rows) - 1)]
            gates = input_scale[k] * (weight_ih @ x[t, n])
            gates = gates + hidden_scale[k] * (weight_hh @ h[n]) + bias[k]
            i, f, g, o = np.split(gates, 4)
            c[n] = sigmoid(f) * c[n] + sigmoid(i) * np.tanh(g)
            h[n] = y[t, n] = sigmoid(o) * np.tanh(cell_scale[k] * c[n] + cell_shift[k])
    return {"Y": y, "Y_h": h, "Y_c": c}


@dataclass(frozen=True)
class Node:
    """A file of one node, on the native kernel."""

    inputs: dict[str, Array]
    """Arrays by name; what is absent is left empty."""
    constant: frozenset[str] = frozenset()
    """The names of those that are initializers; the others are inputs of the graph."""
    outputs: tuple[str, ...] = OUTPUTS
    """Those that are used."""
    instruction_set: str = "1"
    threads: int = 1
    options: dict[str, str] = field(default_factory=dict)
    """Further entries of the session's configuration."""
    provider: str = "CPUExecutionProvider"
    h_levels: int = 0

    def model(self) -> onnx.ModelProto:
        """Return the file."""
        names = [name if name in self.inputs else "" for name in INPUTS]
        while names and not names[-1]:
            names.pop()
        outputs = [name if name in self.outputs else "" for name in OUTPUTS]
        free = {name: array for name, array in self.inputs.items() if name not in self.constant}
        elements = {
            name: helper.np_dtype_to_tensor_dtype(self.inputs[alike].dtype)
            for name, alike in zip(OUTPUTS, ("X", "initial_h", "initial_c"), strict=True)
        }
        node = helper.make_node("BNLSTM", names, outputs, domain="bnlstm")
        if self.h_levels:
            node.attribute.append(helper.make_attribute("h_levels", self.h_levels))
        graph = helper.make_graph(
            [node],
            "node",
            [
                helper.make_tensor_value_info(
                    name,
                    helper.np_dtype_to_tensor_dtype(array.dtype),
                    [f"{name}.{axis}" for axis in range(array.ndim)],
                )
                for name, array in free.items()
            ],
            [helper.make_tensor_value_info(name, elements[name], None) for name in self.outputs],
            [numpy_helper.from_array(self.inputs[name], name) for name in sorted(self.constant)],
        )
        imports = [helper.make_opsetid("", 21), helper.make_opsetid("bnlstm", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def session(self) -> ort.InferenceSession:
        """Open it with plain ONNX Runtime."""
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self.threads
        options.add_session_config_entry("bnlstm.intra_op_num_threads", str(self.threads))
        for key, value in self.options.items():
            options.add_session_config_entry(key, value)
        with choosing(self.instruction_set):
            options.register_custom_ops_library(str(library_path()))
        return ort.InferenceSession(
            self.model().SerializeToString(), options, providers=[self.provider]
        )

    def run(self) -> dict[str, Array]:
        """Return the outputs by name."""
        feeds = {n: a for n, a in self.inputs.items() if n not in self.constant}
        return dict(zip(self.outputs, self.session().run(list(self.outputs), feeds), strict=True))
