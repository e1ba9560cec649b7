import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.nn import BNLSTM
from tools.peers import randomize
from tools.unfolded import UnfoldedBNLSTM, export_unfolded


def model(dtype=torch.float64, **kwargs):
    torch.manual_seed(0)
    made = BNLSTM(3, 5, max_length=4, dtype=dtype, **kwargs).eval()
    randomize(made)
    return made


@pytest.mark.parametrize(
    "kwargs", [{}, {"normalize": ("hidden",), "bias": False}, {"normalize": ()}], ids=str
)
def test_equals_the_training_model(kwargs):
    training = model(**kwargs)
    x = torch.randn(7, 2, 3, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(
            UnfoldedBNLSTM(training)(x), training(x)[0], rtol=1e-12, atol=1e-14
        )


def test_export_is_one_scan_for_any_batch_and_time(tmp_path):
    training = model(torch.float32)
    path = tmp_path / "unfolded.onnx"
    export_unfolded(training, path)
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert operators.count("Scan") == 1
    assert "Loop" not in operators
    session = ort.InferenceSession(path)
    for time, batch in ((7, 2), (2, 5), (1, 1)):
        x = torch.randn(time, batch, 3)
        with torch.inference_mode():
            expected = training(x)[0].numpy()
        (output,) = session.run(None, {"input": x.numpy()})
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kwargs", [{"num_layers": 2}, {"bidirectional": True}], ids=str)
def test_refuses_what_one_scan_cannot_hold(kwargs):
    with pytest.raises(InputError, match="one layer and one direction"):
        UnfoldedBNLSTM(model(**kwargs))
