"""The operator that trains a sequence, against autograd's own graph of `lstm_step`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.nn.cell import lstm_step
from bnlstm_deploy.normalizations import PATHS
from tests.models import randomize


def autograd_of_its_own(model, x, state, lengths, step):
    """One layer and direction, timestep by timestep, over the streams that still run."""
    norms = model.norms("_l0")
    bias = model.bias_ih_l0 + model.bias_hh_l0 if model.bias else None
    h, c = state
    outputs = []
    for t in range(len(x)):
        alive = torch.tensor([n for n, end in enumerate(lengths) if t < end])
        if len(alive) == 0:
            outputs.append(torch.zeros_like(h))
            continue
        product = F.linear(x[t][alive], model.weight_ih_l0)
        new_h, new_c = lstm_step(
            product, (h[alive], c[alive]), model.weight_hh_l0, bias, norms, step + t
        )
        h, c = h.index_copy(0, alive, new_h), c.index_copy(0, alive, new_c)
        outputs.append(torch.zeros_like(h).index_copy(0, alive, new_h))
    return torch.stack(outputs), h, c


def results(run, model, x, h, c):
    """Outputs, gradients of all that has one, and running statistics after one minibatch."""
    x, h, c = (tensor.clone().requires_grad_() for tensor in (x, h, c))
    output, h_n, c_n = run(x, (h, c))
    weigh = torch.Generator().manual_seed(7)
    loss = sum(
        (y * torch.randn(y.shape, generator=weigh, dtype=y.dtype)).sum() for y in (output, h_n, c_n)
    )
    model.zero_grad()
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    buffers = [b.clone() for b in model.buffers()]
    return [output, h_n, c_n, x.grad, h.grad, c.grad, *gradients, *buffers]


@settings(max_examples=40, deadline=None)
@given(
    normalize=st.sets(st.sampled_from(PATHS)),
    per_step=st.sets(st.sampled_from(PATHS)),
    shared=st.sets(st.sampled_from(PATHS)),
    beta=st.sets(st.sampled_from(PATHS)),
    bias=st.booleans(),
    momentum=st.sampled_from([0.1, None]),
    lengths=st.lists(st.integers(0, 6), min_size=2, max_size=5),
    step=st.integers(0, 5),
    checkpoint_steps=st.sampled_from([None, 1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_outputs_gradients_and_statistics_are_those_of_autograd(
    normalize, per_step, shared, beta, bias, momentum, lengths, step, checkpoint_steps, seed
):
    torch.manual_seed(seed)
    time, batch = 6, len(lengths)
    model = BNLSTM(
        2, 3, bias=bias, max_length=4, normalize=normalize, beta=beta, shared_statistics=shared,
        affine_per_step=per_step - shared, momentum=momentum, checkpoint_steps=checkpoint_steps,
        dtype=torch.float64,
    )  # fmt: skip
    randomize(model).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(time, batch, 2, dtype=torch.float64)
    h, c = torch.randn(2, batch, 3, dtype=torch.float64)

    def ours(x, state):
        output, (h_n, c_n) = model(
            x, (state[0][None], state[1][None]), lengths=torch.tensor(lengths), step=step
        )
        return output, h_n[0], c_n[0]

    found = results(ours, model, x, h, c)
    model.load_state_dict(before)
    expected = results(
        lambda x, state: autograd_of_its_own(model, x, state, lengths, step), model, x, h, c
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    model = randomize(BNLSTM(2, 3, max_length=3, dtype=torch.float64)).train()
    x = torch.randn(4, 5, 2, dtype=torch.float64, requires_grad=True)
    h, c = (torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True) for _ in "hc")
    names, parameters = zip(*model.named_parameters(), strict=True)

    def run(x, h, c, *values):
        y, (h_n, c_n) = torch.func.functional_call(
            model, dict(zip(names, values, strict=True)), (x, (h, c))
        )
        return y, h_n, c_n

    assert torch.autograd.gradcheck(run, (x, h, c, *parameters))


def test_a_second_backward_pass_of_a_graph_that_is_kept_gives_the_same():
    torch.manual_seed(0)
    model = BNLSTM(2, 3, max_length=4).train()
    loss = model(torch.randn(5, 4, 2))[0].square().sum()
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    loss.backward()
    for one, other in zip(first, model.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad, rtol=0, atol=0)


def test_a_gradient_of_a_gradient_is_refused():
    model = BNLSTM(2, 3, max_length=4).train()
    loss = model(torch.randn(5, 4, 2))[0].square().sum()
    (gradient,) = torch.autograd.grad(loss, model.weight_hh_l0, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def kept_bytes(model, x):
    """Bytes that a forward pass leaves for its backward pass."""
    y, _ = model(x)
    recurrences, todo = [], [y.grad_fn]
    while todo:
        node = todo.pop()
        if hasattr(node, "kept"):
            recurrences.append(node)
        todo += [parent for parent, _ in node.next_functions if parent is not None]
    tensors = {
        id(tensor): tensor.nbytes
        for node in set(recurrences)
        for kept in node.kept
        for tensor in kept
    }
    return sum(tensors.values())


def test_checkpointing_keeps_nothing_of_a_timestep():
    x = torch.randn(12, 4, 2)
    assert kept_bytes(BNLSTM(2, 3, max_length=4).train(), x) > 12 * 4 * 3 * 4 * 4
    assert kept_bytes(BNLSTM(2, 3, max_length=4, checkpoint_steps=4).train(), x) == 0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("training", [True, False])
def test_torch_compile_computes_the_same_around_the_recurrence(training):
    torch.manual_seed(0)
    model = BNLSTMModel(BNLSTM(2, 3, 2, max_length=4, bidirectional=True), 2).train(training)
    x = torch.randn(5, 4, 2)

    def step(run):
        model.zero_grad()
        logits, (h, c) = run(x)
        (logits.sum() + h.sum() + c.sum()).backward()
        return [logits, h, c, *(p.grad for p in model.parameters())]

    torch._dynamo.reset()
    expected = step(model)
    for one, other in zip(step(torch.compile(model, backend="aot_eager")), expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("lengths", [None, [6, 4, 4, 2, 1]])
@pytest.mark.parametrize("sequence_wise", [False, True])
@pytest.mark.parametrize("checkpoint_steps", [None, 2])
def test_autocast_multiplies_in_bfloat16_and_keeps_states_in_float32(
    lengths, sequence_wise, checkpoint_steps
):
    torch.manual_seed(0)
    model = BNLSTM(
        8, 16, 2, max_length=6, sequence_wise=sequence_wise, checkpoint_steps=checkpoint_steps
    )
    x = torch.randn(6, 5, 8)
    ends = None if lengths is None else torch.tensor(lengths)

    def run(enabled):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y, (h, c) = model(x, lengths=ends)
            loss = y.square().sum()
        loss.backward()
        return y, h, c, [p.grad for p in model.parameters()]

    y, h, c, gradients = run(enabled=True)
    assert {tensor.dtype for tensor in (y, h, c, *gradients)} == {torch.float32}
    exact_y, _, _, exact = run(enabled=False)
    assert 0 < (y - exact_y).abs().max() < 0.02
    for one, other in zip(gradients, exact, strict=True):
        assert nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.9


def test_autocast_evaluates_what_it_trained():
    model = randomize(BNLSTM(8, 16, max_length=6))
    x, lengths = torch.randn(6, 3, 8), torch.tensor([6, 4, 1])
    with torch.no_grad():
        exact, _ = model(x, lengths=lengths)
        with torch.autocast("cpu", torch.bfloat16):
            y, (h, c) = model(x, lengths=lengths)
    assert h.dtype == c.dtype == torch.float32
    torch.testing.assert_close(y.float(), exact, rtol=0, atol=0.02)
