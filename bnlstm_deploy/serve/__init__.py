"""Serving exported files: requests that share runs, and states that the server holds."""

from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.limits import Limits
from bnlstm_deploy.serve.sequences import Chunk
from bnlstm_deploy.serve.stats import Execution, Stats

__all__ = ["Chunk", "Engine", "Execution", "Limits", "Stats"]
