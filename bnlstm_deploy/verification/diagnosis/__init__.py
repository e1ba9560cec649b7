"""Why a graph fails its check: the value that introduces the error, and the mistake behind it."""

from bnlstm_deploy.verification.diagnosis.diagnose import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose"]
