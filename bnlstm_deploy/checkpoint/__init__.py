"""Checkpoints: from files on disk to a training model, and back."""

from bnlstm_deploy.extras import require

for _module in ("torch", "safetensors"):
    require(_module, extra="convert")

from bnlstm_deploy.checkpoint.digest import state_sha256  # noqa: E402
from bnlstm_deploy.checkpoint.native import load_checkpoint, save_checkpoint  # noqa: E402
from bnlstm_deploy.checkpoint.read import read_tensors  # noqa: E402

__all__ = ["load_checkpoint", "read_tensors", "save_checkpoint", "state_sha256"]
