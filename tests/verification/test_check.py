"""check(): correct exports pass, and whatever is changed in one is found."""

import copy
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from bnlstm_deploy.errors import RuntimeSessionError, VerificationError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from tests.exporting.nodes import all_nodes
from tests.models import randomize
from tests.verification.quick import check

CONFIGURATIONS = {
    "one layer": {},
    "two layers, batch first": {"num_layers": 2, "batch_first": True},
    "two directions": {"bidirectional": True},
    "shared statistics": {"max_length": 1},
    "no normalization": {"normalize": ()},
    "no cell normalization": {"normalize": ("input", "hidden")},
    "large eps": {"eps": 1e-3, "beta": ("input", "hidden", "cell")},
}


@pytest.mark.parametrize("arguments", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
@pytest.mark.parametrize("degenerate", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_correct_exports_pass(arguments, degenerate, dtype, tmp_path):
    model = BNLSTM(3, 8, **{"max_length": 6} | arguments)
    randomize(model, degenerate=degenerate)
    export(model, tmp_path / "m.onnx", dtype=dtype)
    report = check(model, tmp_path / "m.onnx")
    assert report.passed, report.failures
    assert report.algebra_error <= 1e-10
    if not degenerate:
        assert report.ratio <= 4
    cases = {comparison.case for comparison in report.precision}
    steps = report.metadata.steps
    lengths_and_steps = "random lengths" + ", random steps" * (not model.bidirectional)
    times = sorted({1, 2, steps - 1, steps, steps + 1, 2 * steps, 4 * steps} - {0})
    for number, time in enumerate(times):
        given, none = (1, 7) if number % 2 == 0 else (7, 1)
        assert {f"T={time}, N={given}, random state", f"T={time}, N={none}"} <= cases
        assert f"T={time}, N=7, random state, {lengths_and_steps}" in cases
    assert f"T={steps}, N=64, random state" in cases
    assert f"T={steps + 1}, N=7, equal lengths" in cases
    chunked = [case for case in cases if "chunks" in case]
    assert bool(chunked) != model.bidirectional


def float_initializers(proto):
    """Names of the arrays; not of the states, which are zeros when left out, scaled or not."""
    arrays = {entry.name: numpy_helper.to_array(entry) for entry in proto.graph.initializer}
    return [name for name, a in arrays.items() if a.dtype == np.float32 and a.any()]


def changed(proto, name, change):
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    (target,) = (entry for entry in copy.graph.initializer if entry.name.endswith(name))
    array = change(numpy_helper.to_array(target).copy())
    target.CopyFrom(numpy_helper.from_array(array, target.name))
    return copy


NUMBER_OF_ARRAYS = 7 + 7 + 2  # two layers and the head


@pytest.mark.parametrize("index", range(NUMBER_OF_ARRAYS))
def test_any_array_scaled_by_one_percent_fails(index, model, proto, tmp_path):
    names = float_initializers(proto)
    assert len(names) == NUMBER_OF_ARRAYS
    onnx.save(changed(proto, names[index], lambda a: a * np.float32(1.01)), tmp_path / "m.onnx")
    assert not check(model, tmp_path / "m.onnx").passed


def change_step_0(array):
    array[0] *= np.float32(1.01)
    return array


def change_last_step(array):
    array[-1] *= np.float32(1.01)
    return array


def put_nan(array):
    array[-1, -1] = np.nan
    return array


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("bias_l0", change_step_0),
        ("bias_l1", change_last_step),
        ("hidden_scale_l0", change_last_step),
        ("cell_shift_l1", put_nan),
        ("bias_l0", lambda a: np.roll(a, 1, axis=0)),
        ("weight_hh_l1", lambda a: np.concatenate(np.split(a, 4)[::-1])),
        ("initial_c", lambda a: a + np.float32(0.01)),
        ("start_step", lambda a: a + 1),
        ("lengths", lambda a: a * 0 + 5),
    ],
)
def test_other_changes_fail(name, change, model, proto, tmp_path):
    onnx.save(changed(proto, name, change), tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx")
    assert not report.passed
    assert report.failures


def with_identity(proto, output, replacement):
    """Make the nodes that compute `output` in the function's body copy `replacement` instead."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    nodes = [node for node in all_nodes(copy.functions[0].node) if node.output[0] == output]
    assert nodes
    for node in nodes:
        node.op_type = "Identity"
        del node.attribute[:], node.input[:]
        node.input.append(replacement)
    return copy


@pytest.mark.parametrize(
    ("output", "replacement"),
    [
        ("step", "t"),  # start step ignored
        ("cell", "cell_scaled"),  # shift of the cell's affine missing
        ("Y_h_ragged", "h_last"),  # final h of the last timestep, not of the last valid one
        ("Y_h_ragged", "h_end"),  # initial h of empty streams lost
    ],
)
def test_changes_of_the_graph_fail(output, replacement, model, proto, tmp_path):
    onnx.save(with_identity(proto, output, replacement), tmp_path / "m.onnx")
    assert not check(model, tmp_path / "m.onnx").passed


@pytest.mark.parametrize("lost", ["c_new", "y"])
def test_a_mask_that_is_lost_fails(lost, model, proto, tmp_path):
    """c not held past a stream's length, or output not 0 there."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    (mask,) = (
        node
        for node in all_nodes(copy.functions[0].node)
        if node.op_type == "Where" and node.output[0] == lost
    )
    mask.input[2] = mask.input[1]
    onnx.save(copy, tmp_path / "m.onnx")
    assert not check(model, tmp_path / "m.onnx").passed


class Twice(torch.nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x):
        output = self.rnn(x)[0]
        return output, output.sum(2)


def test_other_weights_fail_and_the_hash_says_why(model, proto, tmp_path):
    onnx.save(proto, tmp_path / "m.onnx")
    other = randomize(copy.deepcopy(model), seed=1)
    report = check(other, tmp_path / "m.onnx")
    assert not report.passed
    assert report.metadata.checkpoint_sha256 != report.checkpoint_sha256


@pytest.mark.slow
def test_a_model_with_a_large_float32_error_of_its_own_passes(tmp_path):
    """No fixed tolerance would do: here the training model itself is 1e-2 off in float32."""
    model = randomize(BNLSTM(1, 16, max_length=40))
    with torch.no_grad():
        model.hidden_norm_l0.running_var *= 0.02
    export(model, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx")
    own = max(c.own_error for c in report.precision if c.value == "output")
    assert own > 1e-3
    assert report.passed, (report.ratio, report.failures)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_chaotic_model_is_judged_where_it_can_be(dtype, tmp_path):
    """Float32 rounding fills the outputs, and float64 rounding is amplified as much."""
    model = randomize(BNLSTM(1, 16, max_length=40))
    with torch.no_grad():
        model.weight_hh_l0 *= 3
        model.hidden_norm_l0.running_var *= 0.05
    export(model, tmp_path / "m.onnx", dtype=dtype)
    report = check(model, tmp_path / "m.onnx")
    assert report.passed, report.failures
    assert report.algebra_error <= 1e-10
    chaotic = report.to_dict()["chaotic_timesteps"]
    assert {39, 40, 41, 80, 160, 241} <= set(chaotic)
    assert min(chaotic) == 39
    proto = changed(onnx.load(tmp_path / "m.onnx"), "bias_l0", change_step_0)
    onnx.save(proto, tmp_path / "m.onnx")
    assert not check(model, tmp_path / "m.onnx").passed  # the case T = 1 sees it


def test_a_report_is_json_and_repeats_with_its_seed(model, proto, tmp_path):
    onnx.save(proto, tmp_path / "m.onnx")
    steps = []
    report = check(model, tmp_path / "m.onnx", seed=3, progress=lambda *now: steps.append(now))
    again = check(model, tmp_path / "m.onnx", seed=3)
    first, second = ({**r.to_dict(), "environment": None} for r in (report, again))
    assert json.dumps(first, allow_nan=False) == json.dumps(second)
    assert check(model, tmp_path / "m.onnx", seed=4).comparisons != report.comparisons
    assert steps[0][:2] == ("precision", 0)
    assert {stage for stage, _, _ in steps} == {"precision", "conditions"}


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 3)
        self.first = BNLSTM(3, 4, max_length=3)
        self.second = BNLSTM(4, 4, max_length=5)

    def forward(self, tokens):
        x, _ = self.first(self.embed(tokens))
        return self.second(x)[0]


class Average(Tagger):
    def forward(self, tokens):
        return super().forward(tokens).mean(0)


def sample(generator, batch, time):
    return [torch.from_numpy(generator.integers(0, 9, (time, batch)))]


@pytest.mark.parametrize(("kind", "streams"), [(Tagger, True), (Average, False)])
def test_a_model_of_ones_own(kind, streams, tmp_path):
    model = randomize(kind())
    export(model, tmp_path / "m.onnx", (torch.zeros(3, 2, dtype=torch.int64),))
    report = check(model, tmp_path / "m.onnx", sample=sample)
    assert report.passed, report.failures
    values = {comparison.value for comparison in report.precision}
    assert {"output", "first.h_n", "second.c_n", "second.next_step"} <= values
    # the mean over a chunk is not the mean over the whole: such a model has no streaming form
    assert any("chunks" in c.case for c in report.precision) == streams
    with pytest.raises(VerificationError, match="pass sample="):
        check(model, tmp_path / "m.onnx")


def test_a_graph_of_other_layers_cannot_be_checked(model, proto, tmp_path):
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(VerificationError, match="check it against its own checkpoint"):
        check(BNLSTM(3, 8, max_length=6), tmp_path / "m.onnx")
    with pytest.raises(RuntimeSessionError, match="does not exist"):
        check(model, tmp_path / "nowhere.onnx")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda rnn: BNLSTMModel(rnn, 2), r"outputs of the shapes \[\(5, 2\)\], the file of"),
        (Twice, "the model gives 2 outputs, the file 1"),
    ],
)
def test_a_model_with_other_outputs_is_an_error(other, message, tmp_path):
    rnn = randomize(BNLSTM(3, 4, max_length=3))
    export(rnn, tmp_path / "m.onnx")
    sample = lambda generator, batch, time: [torch.zeros(time, batch, 3)]  # noqa: E731
    with pytest.raises(VerificationError, match=message):
        check(other(rnn), tmp_path / "m.onnx", sample=sample)
