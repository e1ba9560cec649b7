"""What export() refuses, with a clear error and without a file."""

import pytest
import torch
from torch import nn

from bnlstm_deploy.errors import ExportError, FoldError, InputError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.exporting.folded_module import FoldedBNLSTM
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session
from tests.models import randomize


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = BNLSTM(3, 3, max_length=4)

    def forward(self, x):
        return self.rnn(self.rnn(x)[0])[0]


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = BNLSTM(3, 3, max_length=4)

    def forward(self, x):
        return self.rnn(x)[0] * float(x.shape[0])


class Late(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = BNLSTM(3, 3, max_length=4)

    def forward(self, x):
        return self.rnn(x, step=3)[0]


class Single(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = BNLSTM(3, 3, max_length=4)

    def forward(self, x):
        return self.rnn(x[:, 0])[0]


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = BNLSTM(3, 3, max_length=4)

    def forward(self, x):
        return self.rnn(x)[0], "text"


class OneNormalized(nn.Module):
    def __init__(self):
        super().__init__()
        self.lower = BNLSTM(3, 3, max_length=4, normalize=())
        self.upper = BNLSTM(3, 3, bidirectional=True, max_length=4, normalize=("cell",))
        for norm in self.upper.norms("_l0"):
            if norm is not None:  # as if there were none
                nn.init.ones_(norm.weight)
                norm.eps = 0


X = torch.randn(3, 2, 3)
HIDDEN_ONLY = BNLSTM(3, 3, bidirectional=True, max_length=4, normalize=["hidden"])


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (nn.Linear(3, 3), {"inputs": (X,)}, "holds no BNLSTM"),
        (Twice(), {}, "needs example inputs"),
        (Twice(), {"inputs": (X,)}, "more than once"),
        (Fixed(), {"inputs": (X,)}, "torch cannot export|came out fixed"),
        (Late(), {"inputs": (X,)}, "step=3, a constant"),
        (Single(), {"inputs": (X,)}, "must have a batch axis"),
        (Text(), {"inputs": (X,)}, "returns a str"),
        (BNLSTM(3, 3, max_length=4), {"opset": 17}, "opset is 17; pass 18 to 23"),
        (BNLSTM(3, 3, max_length=4), {"dtype": torch.complex64}, "torch.float16"),
        (BNLSTM(3, 3, max_length=4), {"input_names": ("a", "b")}, "2 input names"),
        (BNLSTM(3, 3, max_length=4), {"output_names": ("a", "b")}, "2 output names"),
        (BNLSTM(3, 3, max_length=4), {"form": "loop"}, "form is 'loop'"),
        (BNLSTM(3, 3, max_length=4), {"form": "unrolled"}, "pass it as length"),
        (
            randomize(HIDDEN_ONLY),
            {"form": "lstm"},
            "_l0 cannot be exported in the form lstm: the hidden path's scale changes",
        ),
        (OneNormalized(), {"form": "lstm"}, "upper._l0_reverse cannot .*: the cell is normalized"),
        (
            BNLSTM(3, 3, max_length=4),
            {"form": "unrolled", "length": 5, "inputs": (X,)},
            "axis 0 \\(time\\) of 'input' has size 3 in the example, and length is 5",
        ),
        (
            randomize(BNLSTM(3, 3, max_length=4)),
            {
                "form": "unrolled",
                "length": 3,
                "inputs": (X,),
                "dynamic_shapes": [{0: "frames", 1: "batch"}],
            },
            "came out dynamic; in dynamic_shapes, call the time axes 'time'",
        ),
    ],
)
def test_what_cannot_be_exported_leaves_no_file(model, arguments, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export(model, tmp_path / "m.onnx", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_statistics_that_cannot_be_folded_leave_no_file(tmp_path):
    model = BNLSTM(3, 3, max_length=4)
    model.cell_norm_l0.running_var[1, 2] = -1
    with pytest.raises(FoldError, match="step 1, feature 2"):
        export(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_unless_forced(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_text("precious")
    with pytest.raises(InputError, match="exists"):
        export(BNLSTM(3, 3, max_length=4), path)
    assert path.read_text() == "precious"
    export(BNLSTM(3, 3, max_length=4), path, force=True)
    Session(path)
    with pytest.raises(InputError, match="choose a folder that exists"):
        export(BNLSTM(3, 3, max_length=4), tmp_path / "nowhere" / "m.onnx")


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3, 3)])
def test_inputs_of_other_than_three_axes(shape):
    with pytest.raises(
        ExportError, match=f"an input of {len(shape)} axes; for export it must have"
    ):
        FoldedBNLSTM(BNLSTM(3, 3, max_length=4))(torch.zeros(shape))
