"""A server in a process of its own, with models of several kinds, and the same as sessions."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.runtime import Session
from tests.models import randomize
from tests.serve.servers import Server, running


class Tagger(nn.Module):
    """Two BNLSTM over tokens, and two outputs."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 3)
        self.low = BNLSTM(3, 4, max_length=5)
        self.high = BNLSTM(4, 5, max_length=4)

    def forward(self, tokens):
        low, _ = self.low(self.embed(tokens))
        high, _ = self.high(low)
        return high, low


class Served(NamedTuple):
    """The server, and its models' files as sessions."""

    server: Server
    folder: Path
    digits: Session
    tagger: Session
    both: Session

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://{self.server.http}"


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    torch.manual_seed(0)
    digits = BNLSTMModel(BNLSTM(2, 8, batch_first=True, max_length=5), 3, pooling="every")
    export(randomize(digits), folder / "digits.onnx")
    tokens = torch.arange(6).reshape(3, 2)
    export(randomize(Tagger()), folder / "tagger.onnx", inputs=(tokens,))
    export(randomize(BNLSTM(2, 4, bidirectional=True, max_length=5)), folder / "both.onnx")
    sessions = [Session(folder / f"{name}.onnx") for name in ("digits", "tagger", "both")]
    with running(folder) as server:
        yield Served(server, folder, *sessions)


@pytest.fixture
def x():
    """(4, 9, 2) float32 for `digits`."""
    return np.random.default_rng(0).standard_normal((4, 9, 2)).astype(np.float32)
