"""The runtime: exported files on ONNX Runtime. Needs numpy and onnxruntime, and never torch."""

from bnlstm_deploy.extras import require as _require

_require("onnxruntime", extra="cpu")

from bnlstm_deploy.runtime.binding import Binding  # noqa: E402
from bnlstm_deploy.runtime.buckets import Buckets  # noqa: E402
from bnlstm_deploy.runtime.session import Session  # noqa: E402
from bnlstm_deploy.state import State  # noqa: E402

__all__ = ["Binding", "Buckets", "Session", "State"]
