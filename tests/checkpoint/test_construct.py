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
from bnlstm_deploy.normalizations import PATHS
from tests.models import models


@st.composite
def layouts(draw):
    """A layout with keys like `x.1.b.hidden.mean.3`, or `x.1.b.hidden.mean.forget.3`."""
    interleaved = draw(st.booleans())
    by_gate = not interleaved and draw(st.booleans())
    gate = ".{gate}" if by_gate else ""
    names = draw(st.sampled_from([(), ("one", "two", "three", "four")])) if by_gate else ()
    stepwise = draw(st.booleans())
    step = ".{step}" if stepwise else ""
    affine_step = ".{step}" if stepwise and draw(st.booleans()) else ""
    spread = draw(st.sampled_from(["var", "std"]))
    key = "x.{layer}.{direction}."
    norms = {
        path: Normalization(
            norm=path,
            mean=(key + "{norm}.mean" + gate * (path != "cell") + step,),
            gamma=(key + "{norm}.gamma" + gate * (path != "cell") + affine_step,),
            beta=(key + "{norm}.beta" + gate * (path != "cell") + affine_step + "?",),
            eps=draw(st.sampled_from([0.0, 1e-5, 1e-3])),
            optional=True,
            **{spread: (key + "{norm}.spread" + gate * (path != "cell") + step,)},
        )
        for path in PATHS
    }
    return Layout(
        name="random",
        title="",
        weights=Weights(
            input=(key + "W" + gate,),
            hidden=(key + "U" + gate,),
            gates="".join(draw(st.permutations(GATES))),
            gate_names=names,
            orientation=draw(st.sampled_from(["in_out", "out_in"])),
            interleaved=interleaved,
        ),
        bias=Bias(
            keys=(key + "b" + gate + "?", key + "b2" + gate + "?"),
            hidden=(key + "c" + gate + "?",),
            inside=draw(st.sampled_from([(), ("input",), ("hidden",), ("input", "hidden")])),
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

    by_gate = "{gate}" in layout.weights.input[0]
    tensors = {}

    def put(name, tensor, axis=-1, step=""):  # what has gates, in one array or in four
        if not by_gate:
            tensors[name + step] = tensor
            return
        for part, gate in zip(tensor.split(hidden, axis), layout.weights.names, strict=True):
            tensors[f"{name}.{gate}{step}"] = part

    for layer, suffix in model.directions():
        name = "bwd" if suffix.endswith("_reverse") else "fwd"
        key = f"x.{layer + layout.first_layer}.{name}."
        for source, ours in (("W", "weight_ih"), ("U", "weight_hh")):
            weight = arrange(getattr(model, ours + suffix).T)
            in_out = layout.weights.orientation == "in_out"
            put(key + source, weight if in_out else weight.T, 1 if in_out else 0)
        bias = torch.zeros(4 * hidden, dtype=torch.float64)
        if model.bias:
            bias = getattr(model, "bias_ih" + suffix) + getattr(model, "bias_hh" + suffix)
        forget = torch.zeros(4, hidden, dtype=torch.float64)
        forget[1] = layout.bias.forget
        bias = bias - forget.flatten()
        inside = {*layout.bias.inside} & {*model.normalize}
        half = torch.full_like(bias, 0.25)
        of_hidden = torch.linspace(-1, 1, len(bias), dtype=torch.float64)
        if "hidden" not in inside:
            bias = bias - of_hidden
        put(key + "b", arrange(half))
        put(key + "b2", arrange((half if "input" in inside else bias) - half))
        put(key + "c", arrange(of_hidden))
        for path, norm in model.norms(suffix)._asdict().items():
            if norm is None:
                continue
            own = layout.normalization[path]
            order = arrange if path != "cell" else torch.clone
            mean, spread = norm.running_mean, norm.running_var
            if path in inside:
                mean = mean + (half if path == "input" else of_hidden)
                # the bias that is inside moves to the normalization's own shift
            spread = spread.sqrt() if own.std else spread
            place = put if path != "cell" else put_whole(tensors)
            put_rows(place, f"{key}{path}.mean", order(mean), "{step}" in own.mean[0])
            put_rows(place, f"{key}{path}.spread", order(spread), "{step}" in own.mean[0])
            steps = len(mean) if "{step}" in own.gamma[0] else None
            put_affine(place, f"{key}{path}.gamma", order(norm.weight), steps)
            beta = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
            if path == "input" and "input" in inside:
                beta = beta + bias
            put_affine(place, f"{key}{path}.beta", order(beta), steps)
    if model.h_0 is not None:
        axes = ("row", "batch", "hidden")
        for name in ("h", "c"):
            state = getattr(model, f"{name}_0")[:, None].expand(-1, 3, -1)
            order = [axes.index(axis) for axis in layout.state.axes]
            tensors[f"{name}0"] = state.permute(order)
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def put_whole(tensors):
    def put(name, tensor, step=""):
        tensors[name + step] = tensor

    return put


def put_rows(put, key, rows, stepwise):
    if not stepwise:
        put(key, rows)
        return
    for step, row in enumerate(rows):
        put(key, row, step=f".{step}")


def put_affine(put, key, affine, steps):
    if steps is None:
        put(key, affine)
        return
    for step in range(steps):
        put(key, affine[step] if affine.ndim == 2 else affine, step=f".{step}")


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
    layout = dataclasses.replace(layout, bias=Bias(layout.bias.keys, layout.bias.hidden))
    model = data.draw(models(normalize=PATHS, eps={p: n.eps for p, n in norms.items()}))
    for norm in model.modules():
        if hasattr(norm, "running_var"):
            norm.running_var += 0.01
    found = match(dataclasses.replace(layout, normalization=norms), store(model, layout))
    assert found.complete, found.problems()
    built = build(found, store(model, layout))
    assert path not in built.normalize
    assert set(built.normalize) == set(PATHS) - {path}
