import numpy as np
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from bnlstm_deploy.serve.drawing import read_drawing
from bnlstm_deploy.signature import Value
from tools import digits
from tools.page import PEN, app, drawing


def test_it_is_written_beside_the_model(tmp_path):
    model = tmp_path / "digits.onnx"
    assert CliRunner().invoke(app, [str(model)]).exit_code == 0
    inputs, outputs = [Value("x", None, ("time", "batch", 1))], [Value("y", None, ("batch", 10))]
    assert read_drawing(model, inputs, outputs) == drawing()


def test_order_and_scale_are_those_of_the_data_set():
    images, _ = load_digits(return_X_y=True)  # 0..16
    described = drawing()
    ink = images[:, described.order] / 16 * (described.ink - described.paper) + described.paper
    known = np.concatenate([part.x[:, :, 0] for part in digits.load()])
    assert set(map(tuple, ink.astype(np.float32))) == set(map(tuple, known))


def test_the_pen_leaves_room_for_a_line():
    assert 0 < PEN < min(drawing().size) / 2
