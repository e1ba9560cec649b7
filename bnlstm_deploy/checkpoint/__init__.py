"""Checkpoints: from files on disk to a training model, and back."""

from bnlstm_deploy.extras import require as _require

for _module in ("torch", "safetensors"):
    _require(_module, extra="convert")

from bnlstm_deploy.checkpoint.digest import state_sha256  # noqa: E402
from bnlstm_deploy.checkpoint.layout import Layout  # noqa: E402
from bnlstm_deploy.checkpoint.loading import (  # noqa: E402
    Imported,
    import_checkpoint,
    load,
    load_checkpoint,
)
from bnlstm_deploy.checkpoint.own_format import save_checkpoint  # noqa: E402
from bnlstm_deploy.checkpoint.parse import find_layout, shipped_layouts  # noqa: E402
from bnlstm_deploy.checkpoint.read import read_tensors  # noqa: E402
from bnlstm_deploy.checkpoint.recorded import compare_recording, read_recording  # noqa: E402
from bnlstm_deploy.checkpoint.replace import replace  # noqa: E402

__all__ = [
    "Imported",
    "Layout",
    "compare_recording",
    "find_layout",
    "import_checkpoint",
    "load",
    "load_checkpoint",
    "read_recording",
    "read_tensors",
    "replace",
    "save_checkpoint",
    "shipped_layouts",
    "state_sha256",
]
