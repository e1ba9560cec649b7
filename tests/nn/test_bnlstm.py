"""BNLSTM against torch.nn.LSTM and against numpy written from the equations."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.nn import BNLSTM, BNLSTMCell, BNLSTMModel
from bnlstm_deploy.nn.norm import StepwiseBatchNorm
from bnlstm_deploy.normalizations import PATHS
from tests import reference
from tests.models import calls, models, randomize


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_without_normalization_it_is_torch_lstm(bidirectional, num_layers, bias):
    arguments = (3, 5, num_layers, bias, True, 0.0, bidirectional)
    lstm = nn.LSTM(*arguments)
    model = BNLSTM(*arguments, max_length=1, normalize=())
    model.load_state_dict(lstm.state_dict())
    x, lengths = torch.randn(3, 7, 3), torch.tensor([7, 4, 1])
    packed, (h, c) = lstm(pack_padded_sequence(x, lengths, batch_first=True))
    output, _ = pad_packed_sequence(packed, batch_first=True)
    actual, (h_n, c_n) = model(x, lengths=lengths)
    torch.testing.assert_close(actual, output)
    torch.testing.assert_close(h_n, h)
    torch.testing.assert_close(c_n, c)


def test_unbatched_input_is_a_batch_of_one():
    lstm = nn.LSTM(3, 5, 2)
    model = BNLSTM(3, 5, 2, max_length=1, normalize=())
    model.load_state_dict(lstm.state_dict())
    x, state = torch.randn(7, 3), (torch.randn(2, 5), torch.randn(2, 5))
    output, (h, c) = lstm(x, state)
    actual, (h_n, c_n) = model(x, state)
    for one, other in ((actual, output), (h_n, h), (c_n, c)):
        torch.testing.assert_close(one, other)


def test_constructor_begins_like_torch_lstm():
    ours = inspect.signature(BNLSTM.__init__).parameters
    names = ("num_layers", "bias", "batch_first", "dropout", "bidirectional")
    lstm = nn.LSTM(3, 5)
    for name in names:
        assert ours[name].default == getattr(lstm, name), name
    assert list(ours)[1:8] == ["input_size", "hidden_size", *names]
    assert ours["gamma_init"].default == 0.1


@given(st.data())
def test_evaluation_computes_the_papers_equations(data):
    model = data.draw(models())
    x, (h, c), lengths, steps = data.draw(calls(model))
    step = 0 if model.bidirectional else steps
    output, (h_n, c_n) = model(x, (h, c), lengths=lengths, step=step)
    if model.batch_first:
        x, output = x.transpose(0, 1), output.transpose(0, 1)
    expected = reference.run(
        model, x.numpy(), h.numpy(), c.numpy(), lengths.tolist(), steps.tolist()
    )
    for actual, truth in zip((output, h_n, c_n), expected, strict=True):
        np.testing.assert_allclose(actual.detach().numpy(), truth, rtol=1e-9, atol=1e-12)


@given(st.data())
def test_chunks_with_carried_state_and_step_are_the_whole(data):
    model = data.draw(models(bidirectional=False, batch_first=False))
    x, state, _, steps = data.draw(calls(model))
    output, (h_n, c_n) = model(x, state, step=steps)
    cut = data.draw(st.integers(0, len(x)))
    parts = []
    for chunk in (x[:cut], x[cut:]):
        if len(chunk):
            part, state = model(chunk, state, step=steps)
            steps = steps + len(chunk)
            parts.append(part)
    torch.testing.assert_close(torch.cat(parts), output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, (h_n, c_n), rtol=1e-12, atol=1e-12)


def test_resetting_the_step_of_a_carried_state_is_something_else():
    model = randomize(BNLSTM(2, 4, max_length=6))
    x = torch.randn(6, 2, 2)
    whole, _ = model(x)
    _, state = model(x[:3])
    reset, _ = model(x[3:], state)
    assert (reset - whole[3:]).abs().max() > 0.01


def test_a_training_step_reaches_every_parameter_and_visited_row():
    model = BNLSTM(2, 4, 2, bidirectional=True, max_length=3, dropout=0.1)
    output, _ = model(torch.randn(5, 6, 2), lengths=torch.tensor([5, 5, 3, 2, 1, 0]))
    output.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    for name, buffer in model.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert buffer.tolist() == [1, 1, 3], name  # row 2 is the last: steps 2 to 4


def test_padding_never_reaches_the_statistics():
    lengths = torch.tensor([6, 4, 4, 2])
    x = torch.randn(6, 4, 3)
    dirty = x.clone()
    for n, length in enumerate(lengths):
        dirty[length:, n] = float("nan")
    clean_model, dirty_model = (
        randomize(BNLSTM(3, 5, 2, bidirectional=True, max_length=6)).train() for _ in range(2)
    )
    clean_output, clean_state = clean_model(x, lengths=lengths)
    dirty_output, dirty_state = dirty_model(dirty, lengths=lengths)
    torch.testing.assert_close(dirty_output, clean_output, rtol=0, atol=0)
    torch.testing.assert_close(dirty_state, clean_state, rtol=0, atol=0)
    assert all(buffer.isfinite().all() for buffer in dirty_model.buffers())
    for one, other in zip(dirty_model.buffers(), clean_model.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_cell_is_one_step_of_the_layer():
    layer = randomize(BNLSTM(3, 5, max_length=4, dtype=torch.float64))
    cell = BNLSTMCell(3, 5, max_length=4, dtype=torch.float64).eval()
    cell.load_state_dict({name.replace("_l0", ""): v for name, v in layer.state_dict().items()})
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    output, (_, c_n) = layer(x)
    state = None
    for t in range(6):
        state = cell(x[t], state, step=t)
        torch.testing.assert_close(state[0], output[t])
    assert state is not None
    torch.testing.assert_close(state[1], c_n[0])


def test_the_cell_rejects_what_it_cannot_use():
    cell = BNLSTMCell(3, 5, max_length=4)
    with pytest.raises(InputError, match="one timestep"):
        cell(torch.randn(2, 4))
    with pytest.raises(InputError, match="step is -1"):
        cell(torch.randn(2, 3), step=-1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 0}, "input_size is 0"),
        ({"max_length": 2.5}, "max_length is 2.5"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"eps": -1e-5}, "eps is -1e-05"),
        ({"normalize": ("output",)}, "normalize is"),
        ({"beta": "cell"}, "beta is 'cell'"),
    ],
)
def test_constructor_errors_name_the_value(arguments, message):
    with pytest.raises(InputError, match=message):
        BNLSTM(**{"input_size": 2, "hidden_size": 3, "max_length": 4} | arguments)


X = torch.zeros(5, 2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(X[..., :2]), "2 features"),
        (lambda m: m(X[None]), "rank 4"),
        (lambda m: m(X[:0]), "at least one element"),
        (lambda m: m(X.double()), "float64"),
        (lambda m: m(X, (torch.zeros(1, 3, 4), torch.zeros(1, 2, 4))), "initial h"),
        (lambda m: m(X, lengths=torch.tensor([5, 6])), "run from 5 to 6"),
        (lambda m: m(X, lengths=torch.tensor([-1, 6])), "run from -1 to 6"),
        (lambda m: m(X, lengths=torch.tensor([5])), "pass 2 integers"),
        (lambda m: m(X, lengths=torch.tensor([5.0, 5.0])), "float32"),
        (lambda m: m(X, step=-1), "step is -1"),
        (lambda m: m(X, step=torch.tensor([0, 1, 2])), "2 integers"),
        (lambda m: m(X, step=torch.tensor([0, -2])), "step is -2"),
        (
            lambda m: m(
                pack_padded_sequence(X, torch.tensor([5, 4])), lengths=torch.tensor([5, 4])
            ),
            "PackedSequence",
        ),
        (lambda m: m(X, 2 * (torch.zeros(1, 2, 4),), hx=2 * (torch.zeros(1, 2, 4),)), "both given"),
        (lambda m: m.train()(X[:, :1]), "at least 2"),
    ],
)
def test_forward_errors_name_the_value(call, message):
    with pytest.raises(InputError, match=message):
        call(BNLSTM(3, 4, max_length=5).eval())


def test_two_directions_cannot_continue_a_stream():
    model = BNLSTM(3, 4, bidirectional=True, max_length=5).eval()
    with pytest.raises(InputError, match="cannot continue"):
        model(X, step=2)


def test_repr_shows_what_differs_from_the_defaults():
    text = repr(BNLSTM(3, 4, 2, False, True, 0.5, True, max_length=5, normalize=("hidden",)))
    for part in ("num_layers=2", "bias=False", "dropout=0.5", "bidirectional=True", "hidden"):
        assert part in text


def test_dropout_is_between_layers_and_that_of_torch():
    arguments = {"num_layers": 3, "dropout": 0.5, "dtype": torch.float64}
    theirs = nn.LSTM(2, 4, **arguments)
    ours = BNLSTM(2, 4, max_length=1, normalize=(), **arguments)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 6, 2, dtype=torch.float64)
    outputs = []
    for model in (theirs, ours):
        torch.manual_seed(3)
        outputs.append(model(x)[0])
    torch.testing.assert_close(*outputs)
    undropped = ours.eval()(x)[0]
    assert (outputs[1] - undropped).abs().max() > 1e-3
    torch.testing.assert_close(undropped, theirs.eval()(x)[0])


def test_equal_steps_of_all_streams_are_one_step_in_training():
    model = BNLSTM(2, 3, max_length=4, dtype=torch.float64)
    x = torch.randn(2, 5, 2, dtype=torch.float64)
    torch.testing.assert_close(model(x, step=torch.full((5,), 2))[0], model(x, step=2)[0])


def test_the_cell_and_the_layers_have_the_same_defaults():
    layers, cell = (inspect.signature(each).parameters for each in (BNLSTM, BNLSTMCell))
    shared = [
        name for name in cell if name in layers and cell[name].default is not cell[name].empty
    ]
    assert {"momentum", "eps", "gamma_init", "normalize", "beta"} <= {*shared}
    for name in shared:
        assert cell[name].default == layers[name].default, name
    norm = inspect.signature(StepwiseBatchNorm).parameters
    assert norm["momentum"].default == layers["momentum"].default == 0.3


@pytest.mark.parametrize("kind", ["cell", "layers"])
def test_reset_parameters_forgets_all(kind):
    make = {
        "cell": lambda: BNLSTMCell(3, 4, max_length=5),
        "layers": lambda: BNLSTM(3, 4, 2, max_length=5),
    }
    torch.manual_seed(0)
    module = make[kind]()
    fresh = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for tensor in module.state_dict().values():
        tensor.add_(3)
    torch.manual_seed(0)
    module.reset_parameters()
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, fresh[name], msg=name)


def test_parameters_start_as_those_of_torch():
    cell, torchs = BNLSTMCell(3, 400, max_length=2), nn.LSTMCell(3, 400)
    for name, parameter in torchs.named_parameters():
        found = cell.get_parameter(name).abs().max().item()
        assert 0.95 / 20 < found <= 1 / 20, name
        assert 0.95 / 20 < parameter.abs().max().item() <= 1 / 20


@pytest.mark.parametrize("shape", [(2, 2), (2, 4), (3,), (2, 1, 3)])
def test_a_cell_takes_its_own_features_only(shape):
    with pytest.raises(InputError, match="input"):
        BNLSTMCell(3, 4, max_length=2)(torch.zeros(shape))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_head_reads_the_last_state_of_each_direction(bidirectional):
    rnn = BNLSTM(3, 4, 2, batch_first=True, bidirectional=bidirectional, max_length=5)
    model = randomize(BNLSTMModel(rnn, 2))
    x = torch.randn(6, 7, 3)
    output, (h, _) = model(x)
    last = torch.cat([*h[-1 - bidirectional :]], 1)
    torch.testing.assert_close(output, model.head(last))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [[2, 5, 3], [5, 3, 2]])
@pytest.mark.parametrize("normalize", [(), PATHS])
def test_a_packed_sequence_is_taken_and_given_as_torch_does(batch_first, lengths, normalize):
    torch.manual_seed(0)
    model = BNLSTM(
        3, 4, 2, max_length=5, batch_first=batch_first, bidirectional=True, normalize=normalize
    ).eval()
    x = torch.randn(3, 5, 3) if batch_first else torch.randn(5, 3, 3)
    packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first, enforce_sorted=False)
    state = (torch.randn(4, 3, 4), torch.randn(4, 3, 4))
    if normalize:
        padded, expected = model(x, state, lengths=torch.tensor(lengths))
        output = pack_padded_sequence(
            padded, torch.tensor(lengths), batch_first, enforce_sorted=False
        )
    else:
        peer = nn.LSTM(3, 4, 2, batch_first=batch_first, bidirectional=True)
        peer.load_state_dict(model.state_dict())
        output, expected = peer(packed, hx=state)
    found, after = model(packed, hx=state)
    for one, other in zip((*found, *after), (*output, *expected), strict=True):
        torch.testing.assert_close(one, other)


def test_torchs_conversion_to_synchronized_normalization_is_refused():
    with pytest.raises(InputError, match="synchronize_statistics"):
        nn.SyncBatchNorm.convert_sync_batchnorm(BNLSTM(3, 4, max_length=5))
