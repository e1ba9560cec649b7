"""The client: models of a server, called like a Session. Needs numpy and tritonclient alone."""

from bnlstm_deploy.extras import require as _require

_require("tritonclient", extra="client")

from bnlstm_deploy.client.client import Client  # noqa: E402
from bnlstm_deploy.client.sequence import ServerSequence  # noqa: E402
from bnlstm_deploy.client.stream import Stream  # noqa: E402

__all__ = ["Client", "ServerSequence", "Stream"]
