"""A file of this version, for later versions to run: `python -m tests.native.version_file`.

It writes version_X_Y_Z.onnx beside itself, and version_X_Y_Z.npz: inputs by their names in the
file, and the outputs of the training model in float64 and in float32, as truth/NAME and
float32/NAME. Run it before a release; files of earlier versions stay as they are.

What torch's exporter writes beside the nodes is left out: traces with paths of the machine.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM, StepwiseBatchNorm
from bnlstm_deploy.version import __version__
from tests.models import randomize

FOLDER = Path(__file__).parent
TIME, STREAMS = 9, 4


class Stack(nn.Module):
    """Two BNLSTM that differ in what they normalize, so that their nodes differ in form."""

    def __init__(self) -> None:
        super().__init__()
        self.all = BNLSTM(3, 17, max_length=6, learn_initial_state=True)
        self.input = BNLSTM(17, 5, max_length=6, normalize={"input"})

    def forward(self, x: Tensor) -> Tensor:
        """Return the second one's output, (T, N, 5), of x (T, N, 3)."""
        output: Tensor = self.input(self.all(x)[0])[0]
        return output


def make_model() -> Stack:
    """Return a model with random weights, of which two timesteps have the same statistics."""
    model = randomize(Stack())
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, StepwiseBatchNorm):
                norm.running_mean[3] = norm.running_mean[2]
                norm.running_var[3] = norm.running_var[2]
    return model


def make_feeds() -> dict[str, np.ndarray]:
    """Return inputs of every kind: states, lengths and steps that differ between streams."""
    random = np.random.default_rng(0)
    feeds: dict[str, np.ndarray] = {"x": random.standard_normal((TIME, STREAMS, 3), np.float32)}
    for name, hidden in (("all", 17), ("input", 5)):
        feeds[f"{name}.initial_h"] = random.uniform(-1, 1, (1, STREAMS, hidden))
        feeds[f"{name}.initial_c"] = random.uniform(-2, 2, (1, STREAMS, hidden))
        feeds[f"{name}.lengths"] = np.array([TIME, 0, 5, 1])
        feeds[f"{name}.start_step"] = np.array([0, 2, 3, 7])
    return {n: a.astype(np.float32) if a.dtype == float else a for n, a in feeds.items()}


def compute(model: Stack, feeds: dict[str, np.ndarray], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the training model's outputs, by their names in the file."""
    model = model.to(dtype)
    results: dict[str, Tensor] = {}
    given = {n: torch.from_numpy(a) for n, a in feeds.items()}
    output = given["x"].to(dtype)
    with torch.no_grad():
        for name in ("all", "input"):
            state = tuple(given[f"{name}.initial_{s}"].to(dtype) for s in "hc")
            lengths, step = given[f"{name}.lengths"], given[f"{name}.start_step"]
            output, left = getattr(model, name)(output, state, lengths=lengths, step=step)
            results |= {f"{name}.h_n": left[0], f"{name}.c_n": left[1]}
            results[f"{name}.next_step"] = step + lengths
    return {"output": output} | results


def strip(path: Path) -> None:
    """Drop the properties of nodes and values that are not this package's."""
    proto = onnx.load(path)
    for node in proto.graph.node:
        own = [entry for entry in node.metadata_props if entry.key.startswith("bnlstm.")]
        del node.metadata_props[:]
        node.metadata_props.extend(own)
    for value in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output]:
        del value.metadata_props[:]
    onnx.save(proto, path)


def main() -> None:
    """Write the two files."""
    path = FOLDER / f"version_{__version__.replace('.', '_')}.onnx"
    model, feeds = make_model(), make_feeds()
    export(model, path, (torch.zeros(2, 2, 3),), force=True)
    strip(path)
    arrays = dict(feeds)
    for label, dtype in (("float32", torch.float32), ("truth", torch.float64)):
        for name, tensor in compute(model, feeds, dtype).items():
            arrays[f"{label}/{name}"] = tensor.numpy()
    np.savez_compressed(path.with_suffix(".npz"), **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
