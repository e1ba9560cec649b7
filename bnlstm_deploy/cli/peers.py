"""What `bench --html` measures a file against."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bnlstm_deploy.extras import require
from bnlstm_deploy.metadata import Metadata, RecurrentLayers


@contextmanager
def lstm_operator(metadata: Metadata) -> Iterator[Path | None]:
    """Yield a file of ONNX's LSTM nodes of the same sizes, with metadata that a Session reads.

    None for a file of several BNLSTM, and for other than float32: of these there is no one peer.
    """
    if len(metadata.layers) > 1 or metadata.dtype != "float32" or metadata.weights:
        yield None
        return
    require("onnx", extra="convert")
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    layers = metadata.layers[0]
    nodes, arrays, name = [], [], "input"
    for layer in range(layers.num_layers):
        weights = _weights(layers, layer)
        names = [f"{kind}{layer}" for kind in weights]
        arrays += [
            numpy_helper.from_array(array, f"{kind}{layer}") for kind, array in weights.items()
        ]
        direction = "bidirectional" if layers.num_directions == 2 else "forward"
        nodes += [
            helper.make_node(
                "LSTM", [name, *names], [f"y{layer}"],
                hidden_size=layers.hidden_size, direction=direction,
            ),
            helper.make_node("Transpose", [f"y{layer}"], [f"z{layer}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"z{layer}", "shape"], [f"h{layer}"]),
        ]  # fmt: skip
        name = f"h{layer}"
    width = layers.num_directions * layers.hidden_size
    arrays.append(numpy_helper.from_array(np.array([0, 0, width], np.int64), "shape"))
    nodes.append(helper.make_node("Identity", [name], ["output"]))
    float32 = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "lstm",
        [helper.make_tensor_value_info("input", float32, ["time", "batch", layers.input_size])],
        [helper.make_tensor_value_info("output", float32, ["time", "batch", width])],
        arrays,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    helper.set_model_props(model, metadata.to_properties())
    with TemporaryDirectory() as folder:
        path = Path(folder) / "lstm.onnx"
        onnx.save(model, path)
        yield path


def _weights(layers: RecurrentLayers, layer: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(layer)
    directions, size = layers.num_directions, layers.hidden_size
    features = layers.input_size if layer == 0 else directions * size
    shapes = {
        "W": (directions, 4 * size, features),
        "R": (directions, 4 * size, size),
        "B": (directions, 8 * size),
    }
    return {
        name: (generator.uniform(-1, 1, shape) / size**0.5).astype(np.float32)
        for name, shape in shapes.items()
    }
