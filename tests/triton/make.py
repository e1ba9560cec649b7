"""What the tests on the real tritonserver read: repositories, and what a Session computes.

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
    whole = Session(folder / "directions.onnx")
    arrays = {
        "x": x,
        "layers": Session(folder / "layers.onnx")(x.swapaxes(0, 1))[0].swapaxes(0, 1),
        "classifier": classify(Session(folder / "classifier.onnx"), x),
    }
    for i in range(STREAMS):
        arrays[f"whole_{i}"] = whole(x[i : i + 1, : TIME - i])[0]
    np.savez(folder / "expected.npz", **arrays)


def classify(session, x):
    """Return the class scores after each timestep, (N, T, classes)."""
    return np.stack([session(x[:, : t + 1])[0] for t in range(TIME)], axis=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
