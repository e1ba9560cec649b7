"""Exported files to deploy."""

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from tests.models import randomize


def export_layers(path):
    """Two layers, time-major; an output at every timestep."""
    export(randomize(BNLSTM(3, 5, num_layers=2, max_length=6), 1), path)


def export_classifier(path):
    """Batch-first, with a learned initial state; an output at the end."""
    rnn = BNLSTM(3, 6, batch_first=True, max_length=7, learn_initial_state=True)
    export(randomize(BNLSTMModel(rnn, 4), 2), path)


def export_two_directions(path):
    """Whole sequences only."""
    export(randomize(BNLSTM(3, 4, batch_first=True, bidirectional=True, max_length=6), 3), path)
