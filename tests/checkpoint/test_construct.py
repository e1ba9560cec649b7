"""Everything that a layout can say: random models stored in random layouts, and read back."""

import dataclasses

import torch
from hypothesis import given
from hypothesis import strategies as st

from bnlstm_deploy.checkpoint.construct import build
from bnlstm_deploy.checkpoint.layout import (
    GATES,
    Bias,
    InitialState,
    Layout,
    Normalization,
    Weights,
)
from bnlstm_deploy.checkpoint.match import match
from bnlstm_deploy.nn.cell import PATHS
from tests.models import models


@st.composite
def layouts(draw):
    """A layout with keys like `x.1.b.hidden.mean.3`."""
    stepwise = draw(st.booleans())
    step = ".{step}" if stepwise else ""
    affine_step = ".{step}" if stepwise and draw(st.booleans()) else ""
    spread = draw(st.sampled_from(["var", "std"]))
    key = "x.{layer}.{direction}."
    norms = {
        path: Normalization(
            norm=path,
            mean=(key + "{norm}.mean" + step,),
            gamma=(key + "{norm}.gamma" + affine_step,),
            beta=(key + "{norm}.beta" + affine_step + "?",),
            eps=draw(st.sampled_from([0.0, 1e-5, 1e-3])),
            optional=True,
            **{spread: (key + "{norm}.spread" + step,)},
        )
        for path in PATHS
    }
    return Layout(
        name="random",
        title="",
        weights=Weights(
            input=(key + "W",),
            hidden=(key + "U",),
            gates="".join(draw(st.permutations(GATES))),
            orientation=draw(st.sampled_from(["in_out", "out_in"])),
            interleaved=draw(st.booleans()),
        ),
        bias=Bias(
            keys=(key + "b?", key + "b2?"),
            inside=draw(st.sampled_from([None, "input"])),
            forget=draw(st.sampled_from([0.0, 1.0])),
        ),
        normalization=norms,
        state=InitialState(
            ("h0?",), ("c0?",), tuple(draw(st.permutations(["row", "batch", "hidden"])))
        ),
        directions=("fwd", "bwd"),
        first_layer=draw(st.integers(0, 1)),
    )


def store(model, layout):
    """The tensors that `layout` describes, of a model; the inverse of what is tested."""
    gates = layout.weights.gates
    hidden = model.hidden_size

    def arrange(tensor):  # the last axis from i, f, g, o to the layout's gates
        parts = dict(zip(GATES, tensor.split(hidden, dim=-1), strict=True))
        ordered = [parts[gate] for gate in gates]
        if layout.weights.interleaved:
            return torch.stack(ordered, dim=-1).flatten(-2)
        return torch.cat(ordered, dim=-1)

    tensors = {}
    for layer, suffix in model.directions():
        name = "bwd" if suffix.endswith("_reverse") else "fwd"
        key = f"x.{layer + layout.first_layer}.{name}."
        for source, ours in (("W", "weight_ih"), ("U", "weight_hh")):
            weight = arrange(getattr(model, ours + suffix).T)
            in_out = layout.weights.orientation == "in_out"
            tensors[key + source] = weight if in_out else weight.T
        bias = torch.zeros(4 * hidden, dtype=torch.float64)
        if model.bias:
            bias = getattr(model, "bias_ih" + suffix) + getattr(model, "bias_hh" + suffix)
        forget = torch.zeros(4, hidden, dtype=torch.float64)
        forget[1] = layout.bias.forget
        bias = bias - forget.flatten()
        inside = layout.bias.inside == "input" and "input" in model.normalize
        half = torch.full_like(bias, 0.25)
        tensors |= {
            key + "b": arrange(half),
            key + "b2": arrange((half if inside else bias) - half),
        }
        for path, norm in model.norms(suffix)._asdict().items():
            if norm is None:
                continue
            own = layout.normalization[path]
            order = arrange if path != "cell" else torch.clone
            mean, spread = norm.running_mean, norm.running_var
            if path == "input" and inside:
                mean = mean + half
                # the bias that is inside moves to the normalization's own shift
            spread = spread.sqrt() if own.std else spread
            put_rows(tensors, f"{key}{path}.mean", order(mean), "{step}" in own.mean[0])
            put_rows(tensors, f"{key}{path}.spread", order(spread), "{step}" in own.mean[0])
            steps = len(mean) if "{step}" in own.gamma[0] else None
            put_affine(tensors, f"{key}{path}.gamma", order(norm.weight), steps)
            beta = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
            if path == "input" and inside:
                beta = beta + bias
            put_affine(tensors, f"{key}{path}.beta", order(beta), steps)
    if model.h_0 is not None:
        axes = ("row", "batch", "hidden")
        for name in ("h", "c"):
            state = getattr(model, f"{name}_0")[:, None].expand(-1, 3, -1)
            order = [axes.index(axis) for axis in layout.state.axes]
            tensors[f"{name}0"] = state.permute(order)
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def put_rows(tensors, key, rows, stepwise):
    if not stepwise:
        tensors[key] = rows
        return
    for step, row in enumerate(rows):
        tensors[f"{key}.{step}"] = row


def put_affine(tensors, key, affine, steps):
    if steps is None:
        tensors[key] = affine
        return
    for step in range(steps):
        tensors[f"{key}.{step}"] = affine[step] if affine.ndim == 2 else affine


@given(st.data())
def test_what_is_stored_in_any_layout_is_read_back(data):
    layout = data.draw(layouts())
    eps = {path: norm.eps for path, norm in layout.normalization.items()}
    model = data.draw(models(eps=eps, learn_initial_state=data.draw(st.booleans())))
    for norm in model.modules():
        if hasattr(norm, "running_var"):
            norm.running_var += 0.01  # eps may be 0
    found = match(layout, store(model, layout))
    assert found.complete, found.problems()
    built = build(found, store(model, layout), batch_first=model.batch_first)
    x = torch.randn(4, 4, model.input_size, dtype=torch.float64)
    with torch.no_grad():
        actual, expected = built.double()(x), model(x)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@given(st.data())
def test_what_is_stored_and_not_applied_changes_nothing(data):
    layout = data.draw(layouts())
    path = data.draw(st.sampled_from(PATHS))
    norms = dict(layout.normalization)
    norms[path] = dataclasses.replace(norms[path], applied=False)
    layout = dataclasses.replace(layout, bias=Bias(layout.bias.keys))
    model = data.draw(models(normalize=PATHS, eps={p: n.eps for p, n in norms.items()}))
    for norm in model.modules():
        if hasattr(norm, "running_var"):
            norm.running_var += 0.01
    found = match(dataclasses.replace(layout, normalization=norms), store(model, layout))
    assert found.complete, found.problems()
    built = build(found, store(model, layout))
    assert path not in built.normalize
    assert set(built.normalize) == set(PATHS) - {path}
