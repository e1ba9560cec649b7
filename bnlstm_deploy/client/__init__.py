"""The client: models of a server, called like a Session. Needs numpy and tritonclient alone."""

from bnlstm_deploy.extras import require

require("tritonclient", extra="client")

from bnlstm_deploy.client.client import Client  # noqa: E402
from bnlstm_deploy.client.sequence import Sequence  # noqa: E402
from bnlstm_deploy.client.stream import Stream  # noqa: E402

__all__ = ["Client", "Sequence", "Stream"]
