"""What the tests on the real tritonserver read: repositories, and what a Session computes.

Of the arrays in expected.npz, those in the folder `kernel` are the native kernel's, the same to the
bit as the server's; the others are those of the function bodies.

`python -m tests.triton.make FOLDER`, in the main environment.
"""

import shutil
import sys
from pathlib import Path

import numpy as np

from bnlstm_deploy.runtime import Session
from tests.deploy import models
from tests.deploy.commands import deploy

TIME = 24
STREAMS = 8
SLOTS = 4

PYTHON = ("--backend", "python")
STREAMING = (*PYTHON, "--max-wait", "0.05", "--sequence-idle", "3", "--max-sequences", SLOTS)
SERVED = {
    "oldest": ("layers", STREAMING),
    "direct": ("layers", (*STREAMING, "--strategy", "direct", "--max-batch", SLOTS)),
    "learned": ("classifier", STREAMING),
    "whole": ("directions", (*PYTHON, "--max-wait", "0.2")),
    "body": ("layers", (*STREAMING, "--no-native")),
}
"""By the name in the repository: the file, and the options."""

ONNXRUNTIME = {
    "onnx_oldest": ("layers", ()),
    "onnx_direct": ("layers", ("--strategy", "direct", "--lengths")),
    "onnx_learned": ("classifier", ("--preferred-batch", "4")),
    "onnx_whole": ("directions", ("--lengths",)),
}


def main(folder):
    """Write `python`, `onnxruntime` and expected.npz into the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    models.export_layers(folder / "layers.onnx")
    models.export_classifier(folder / "classifier.onnx")
    models.export_two_directions(folder / "directions.onnx")
    for repository, served in (("python", SERVED), ("onnxruntime", ONNXRUNTIME)):
        for name, (file, options) in served.items():
            deploy(folder / f"{file}.onnx", folder / repository, *options, name=name)
    x = np.random.default_rng(0).standard_normal((STREAMS, TIME, 3)).astype(np.float32)
    arrays = {"x": x} | compute(folder, x, native=False)
    arrays |= {f"kernel/{name}": array for name, array in compute(folder, x, native=True).items()}
    np.savez(folder / "expected.npz", **arrays)


def compute(folder, x, *, native):
    """Return what the files compute, by the files' names."""
    layers, classifier, whole = (
        Session(folder / f"{name}.onnx", native=native)
        for name in ("layers", "classifier", "directions")
    )
    return {
        "layers": layers(x.swapaxes(0, 1))[0].swapaxes(0, 1),
        "classifier": classify(classifier, x),
        **{f"whole_{i}": whole(x[i : i + 1, : TIME - i])[0] for i in range(STREAMS)},
    }


def classify(session, x):
    """Return the class scores after each timestep, (N, T, classes)."""
    return np.stack([session(x[:, : t + 1])[0] for t in range(TIME)], axis=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
