"""What a server shows of an exported file."""

import numpy as np
import pytest
import torch
from torch import nn

from bnlstm_deploy.deploy.interface import describe
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session
from tests.models import randomize


class Around(nn.Module):
    """Calls a BNLSTM with arguments of its own, and does something with the output."""

    def __init__(self, what=lambda y: y, **passed):
        super().__init__()
        self.rnn = BNLSTM(3, 4, batch_first=True, max_length=5)
        self.what = what
        self.passed = passed

    def forward(self, x):
        return self.what(self.rnn(x, **self.passed)[0])


def session_of(model, folder, **arguments):
    export(randomize(model), folder / "m.onnx", **arguments)
    return Session(folder / "m.onnx")


def test_axes_of_a_time_major_file(exported):
    interface = describe(Session(exported / "layers.onnx"), sequence=True, lengths=True)
    (x, lengths), (y,) = interface.inputs, interface.outputs
    assert x == ("input", "input", 1, "TYPE_FP32", (-1, 3), False)
    assert lengths == ("lengths", "lengths", 0, "TYPE_INT64", (1,), True)
    assert y == ("output", "output", 1, "TYPE_FP32", (-1, 5), False)
    h, c, step = interface.carried
    assert h.input == ("state_0_in", "initial_h", 1, "TYPE_FP32", (2, 5), False)
    assert h.output == ("state_0_out", "h_n", 1, "TYPE_FP32", (2, 5), False)
    assert (c.input.graph_name, c.output.graph_name) == ("initial_c", "c_n")
    assert step.input == ("state_2_in", "start_step", 0, "TYPE_INT64", (1,), True)
    assert step.output == ("state_2_out", "next_step", 0, "TYPE_INT64", (1,), True)


def test_a_stream_starts_from_the_learned_state(exported):
    session = Session(exported / "classifier.onnx")
    interface = describe(session, sequence=True, lengths=False)
    x = np.random.default_rng(0).standard_normal((1, 4, 3)).astype(np.float32)
    initial = {state.input.graph_name: state.initial for state in interface.carried}
    assert {name: a.shape for name, a in initial.items()} == {
        state.input.graph_name: state.input.dims for state in interface.carried
    }
    assert initial["initial_h"].any()
    assert initial["start_step"] == 0
    feeds = {n: a if n == "start_step" else a[:, None] for n, a in initial.items()}
    given = session.run({"input": x} | feeds)["output"]
    np.testing.assert_allclose(given, session(x)[0], atol=1e-6)


def test_whole_sequences_show_final_states_and_no_step(exported):
    interface = describe(Session(exported / "layers.onnx"), sequence=False, lengths=False)
    assert [value.name for value in interface.inputs] == ["input"]
    assert [value.name for value in interface.outputs] == ["output", "h_n", "c_n"]
    assert not interface.carried


def test_an_unrolled_file_has_its_time(tmp_path):
    model = BNLSTM(3, 4, max_length=5)
    session = session_of(model, tmp_path, form="unrolled", folding="factored", length=6)
    interface = describe(session, sequence=True, lengths=False)
    assert interface.inputs[0].dims == (6, 3)


def test_two_directions_are_no_streams(exported):
    session = Session(exported / "directions.onnx")
    with pytest.raises(InputError, match=r"two directions.*no sequence batching"):
        describe(session, sequence=True, lengths=False)


def test_materialized_weights_are_no_streams(tmp_path):
    model = BNLSTM(3, 4, max_length=5)
    session = session_of(model, tmp_path, folding="materialized")
    with pytest.raises(InputError, match=r"folding='factored'.*no sequence batching"):
        describe(session, sequence=True, lengths=False)


def test_lengths_that_the_model_passes_itself(tmp_path):
    model = Around(lengths=torch.tensor([2]))
    session = session_of(model, tmp_path, inputs=(torch.zeros(2, 3, 3),))
    describe(session, sequence=False, lengths=False)
    for arguments in ({"sequence": False, "lengths": True}, {"sequence": True, "lengths": False}):
        with pytest.raises(InputError, match=r"no input 'lengths'.*without lengths"):
            describe(session, **arguments)


def test_an_output_without_the_batch(tmp_path):
    model = Around(lambda y: y.sum(0))
    session = session_of(model, tmp_path, inputs=(torch.zeros(2, 3, 3),))
    with pytest.raises(InputError, match=r"'output' has the axes .* none is called 'batch'"):
        describe(session, sequence=False, lengths=False)


def test_an_output_of_a_type_that_is_not_served(tmp_path):
    model = Around(lambda y: y.to(torch.int8))
    session = session_of(model, tmp_path, inputs=(torch.zeros(2, 3, 3),))
    with pytest.raises(InputError, match=r"'output' has a type .* float32, float64"):
        describe(session, sequence=False, lengths=False)
