"""What a number that was measured depends on, beside the file and the model."""

import platform

import numpy as np
import onnx
import onnxruntime as ort
import torch

from bnlstm_deploy.version import __version__


def versions() -> dict[str, str]:
    """Return the versions of all that computes, and the machine."""
    return {
        "bnlstm-deploy": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": ort.__version__,  # onnxruntime-gpu is that module, too
        "machine": platform.machine(),
        "system": platform.platform(),
    }
