"""float16 and bfloat16: what is in which dtype, each value rounded once, and nothing overflows."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bnlstm_deploy.errors import FoldError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.exporting.folded_module import FoldedBNLSTM, round_to
from bnlstm_deploy.folding import fold
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.runtime import Session
from tests.exporting.nodes import all_nodes
from tests.models import randomize

DTYPES = [torch.float16, torch.bfloat16]
NUMBERS = {torch.float16: 10, torch.bfloat16: 16}
FORMS = [
    {},
    {"folding": "materialized"},
    {"form": "unrolled", "length": 4, "folding": "factored"},
    {"form": "unrolled", "length": 4, "folding": "materialized"},
]


def make(**arguments):
    return randomize(BNLSTM(3, 6, 2, max_length=3, beta=("cell",), **arguments))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arguments", FORMS)
def test_weights_are_reduced_and_all_else_is_float32(dtype, arguments, tmp_path):
    metadata = export(BNLSTMModel(make(), 2), tmp_path / "m.onnx", dtype=dtype, **arguments)
    assert metadata.dtype == str(dtype).removeprefix("torch.")
    proto = onnx.load(tmp_path / "m.onnx")
    types = {entry.name: entry.data_type for entry in proto.graph.initializer}
    for name, number in types.items():
        if name.startswith(("rnn.weight", "head.")):
            assert number == NUMBERS[dtype], name
        elif number != onnx.TensorProto.INT64:
            assert number == onnx.TensorProto.FLOAT, name
    values = (*proto.graph.input, *proto.graph.output)
    floats = {v.type.tensor_type.elem_type for v in values} - {onnx.TensorProto.INT64}
    assert floats == {onnx.TensorProto.FLOAT}
    assert proto.ByteSize() < 60_000
    for function in proto.functions:  # only products are computed in the reduced dtype
        nodes = list(all_nodes(function.node))
        narrow = {n.output[0] for n in nodes if n.op_type == "MatMul"}
        widened = {n.input[0] for n in nodes if n.op_type == "Cast" and n.attribute[0].i == 1}
        assert narrow <= widened


@pytest.mark.parametrize("arguments", FORMS)
def test_the_error_in_float16_is_that_of_the_products(arguments, tmp_path):
    model = make()
    export(model, tmp_path / "m.onnx", dtype=torch.float16, **arguments)
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    output, state = Session(tmp_path / "m.onnx")(x.numpy())
    with torch.no_grad():
        truth, (_, c) = model.double()(x.double())
    for actual, exact in ((output, truth), (state.c, c)):
        assert actual.dtype == np.float32
        assert 1e-6 < np.abs(actual - exact.numpy()).max() < 2e-2


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_rounded_once(dtype):
    model = make().double()
    exact = fold(model).layers[0][0]
    rounded = round_to(exact, dtype)
    assert rounded.bias.dtype == np.float32
    step = 2.0 ** {torch.float16: -11, torch.bfloat16: -8}[dtype]
    for name in ("weight_ih", "weight_hh"):
        value, truth = getattr(rounded, name), getattr(exact, name)
        assert np.array_equal(torch.from_numpy(value).to(dtype).float().numpy(), value)
        assert (np.abs(value - truth) <= step * np.abs(truth)).all()


@given(st.floats(-1e30, 1e30, allow_nan=False, width=64))
def test_bfloat16_is_the_nearest_and_never_rounded_by_way_of_float32(value):
    exact = fold(make().double()).layers[0][0]
    weight = exact.weight_hh.copy()
    weight[0, 0] = value if abs(value) > 1e-30 else 0.0
    near = float(round_to(replace(exact, weight_hh=weight), torch.bfloat16).weight_hh[0, 0])
    bits = int(np.float32(near).view(np.uint32))
    assert bits & 0xFFFF == 0
    for other in (bits + 0x10000, bits - 0x10000):
        neighbour = float(np.uint32(other % 2**32).view(np.float32))
        if np.isfinite(neighbour):
            assert abs(near - weight[0, 0]) <= abs(neighbour - weight[0, 0])


def test_a_weight_beyond_float16_is_an_error():
    model = make()
    with torch.no_grad():
        model.weight_hh_l0[0, 0] = 1e6
    with pytest.raises(FoldError, match=r"a weight is 1e\+06, and float16 ends at 65504"):
        FoldedBNLSTM(model, torch.float16)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", FORMS)
def test_scales_in_the_hundreds_do_not_overflow_float16(arguments, tmp_path):
    """As of the digits at step 0, 184, and ten times that."""
    model = make()
    with torch.no_grad():
        for _, suffix in model.directions():
            for norm in model.norms(suffix):
                norm.running_var[0] = 1e-9
    with torch.no_grad():
        x = 1e-3 * torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
        truth, _ = model.double()(x.double())
    assert max(float(d[0].hidden_scale.max()) for d in fold(model).layers) > 100
    export(model.float(), tmp_path / "m.onnx", dtype=torch.float16, **arguments)
    output, state = Session(tmp_path / "m.onnx")(x.numpy())
    assert np.isfinite(output).all()
    assert np.isfinite(state.c).all()
    # gates that are on an edge may fall to either side; most do not
    assert np.median(np.abs(output - truth.numpy())) < 1e-2


class Head(torch.nn.Module):
    """Uses the final state, in whatever dtype it runs."""

    def __init__(self):
        super().__init__()
        self.rnn = make()
        self.linear = torch.nn.Linear(6, 2)

    def forward(self, x):
        _, (h, c) = self.rnn(x)
        return self.linear(h[-1]), c.sum(-1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_that_uses_its_final_state(dtype, tmp_path):
    model = randomize(Head())
    metadata = export(model, tmp_path / "m.onnx", (torch.randn(4, 2, 3),), dtype=dtype)
    assert metadata.pads
    if dtype == torch.float16:
        x = torch.randn(4, 5, 3)
        (scores, _), _ = Session(tmp_path / "m.onnx")(x.numpy())
        with torch.no_grad():
            assert np.abs(scores - model(x)[0].numpy()).max() < 2e-2
