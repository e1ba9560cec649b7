"""The fold: a training model's normalizations as affine maps in numpy, float64 until the end."""

from bnlstm_deploy.folding.affine import Affine, affine
from bnlstm_deploy.folding.fold import fold
from bnlstm_deploy.folding.folded import FoldedDirection, FoldedLSTM, Materialized
from bnlstm_deploy.folding.merge import absorb_scales, merge

__all__ = [
    "Affine",
    "FoldedDirection",
    "FoldedLSTM",
    "Materialized",
    "absorb_scales",
    "affine",
    "fold",
    "merge",
]
