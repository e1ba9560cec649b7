"""The whole path against recorded checkpoints that public third-party code trained.

The facts about the sources are written out here: gate order, weight layout [in, 4H], which
normalizations have gamma and beta, learned initial states.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from bnlstm_deploy.exporting import export
from bnlstm_deploy.folding import fold
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.normalizations import PATHS
from bnlstm_deploy.npz import read_npz
from tests.verification.quick import check

RECORDED = Path(__file__).parents[2] / "shared" / "checkpoints"
SOURCE_NAMES = {"input": "bn_ih", "hidden": "bn_hh", "cell": "bn_c"}


def read(name):
    path = RECORDED / f"{name}.pt"
    if not path.exists():
        pytest.skip("the recorded checkpoints are not beside this repository")
    state = torch.load(path, weights_only=True)
    return {key.removeprefix("rnn."): tensor.double() for key, tensor in state.items()}


def convert(cell, suffix, order, statistics):
    """One layer and direction as BNLSTM's parameters.

    `order` maps the source's gates to i, f, g, o; `statistics(norm, kind)` gives (S, F).
    """

    def gates(tensor):
        parts = dict(zip(order, tensor.chunk(4, dim=-1), strict=True))
        return torch.cat([parts[gate] for gate in "ifgo"], dim=-1)

    tensors = {
        f"weight_ih{suffix}": gates(cell["weight_ih"]).T,
        f"weight_hh{suffix}": gates(cell["weight_hh"]).T,
        f"bias_ih{suffix}": gates(cell["bias"]),
        f"bias_hh{suffix}": torch.zeros_like(cell["bias"]),
    }
    for path, source in SOURCE_NAMES.items():
        arrange = gates if path != "cell" else torch.clone
        norm = f"{path}_norm{suffix}."
        mean, var = statistics(source, "running_mean"), statistics(source, "running_var")
        weight = cell.get(f"{source}.weight", torch.ones_like(mean[0]))
        tensors[norm + "weight"] = arrange(weight)
        if f"{source}.bias" in cell:
            tensors[norm + "bias"] = arrange(cell[f"{source}.bias"])
        tensors[norm + "running_mean"] = arrange(mean)
        tensors[norm + "running_var"] = arrange(var)
        tensors[norm + "num_batches_tracked"] = torch.ones(len(mean), dtype=torch.int64)
    return tensors


def part(state, prefix):
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def stacked_per_step():
    """h-jia/batch_normalized_LSTM: two layers, statistics of 8 timesteps, run to T = 30."""
    state = read("stacked_per_step")
    tensors = {}
    for layer in range(2):
        cell = part(state, f"cell_{layer}.")

        def statistics(norm, kind, cell=cell):
            return torch.stack([cell[f"{norm}.{kind}_{t}"] for t in range(8)])

        tensors |= convert(cell, f"_l{layer}", "fiog", statistics)
    model = BNLSTM(8, 32, 2, max_length=8, beta=PATHS, dtype=torch.float64)
    model.load_state_dict(tensors)
    return model.eval(), None


def bidirectional_shared():
    """hellozgy/bnlstm-pytorch: both directions, shared statistics, learned initial state."""
    state = read("bidirectional_shared")
    tensors = {}
    for prefix, suffix in (("lstm_f.", "_l0"), ("lstm_b.", "_l0_reverse")):
        cell = part(state, prefix)

        def statistics(norm, kind, cell=cell):
            return cell[f"{norm}.{kind}"][None]

        tensors |= convert(cell, suffix, "ifog", statistics)
    model = BNLSTM(8, 32, bidirectional=True, max_length=1, dtype=torch.float64)
    model.load_state_dict(tensors)
    return model.eval(), (state["h0"], state["c0"])


@pytest.mark.parametrize("load", [stacked_per_step, bidirectional_shared])
@pytest.mark.parametrize("run", ["training model", "fold"])
def test_recorded_float64_outputs_are_met(load, run):
    model, learned = load()
    recorded = read_npz(RECORDED / f"{load.__name__}.npz")
    x = torch.from_numpy(recorded["x"]).double().transpose(0, 1)
    state = None
    if learned is not None:
        h, c = (value.expand(-1, x.shape[1], -1) for value in learned)
        state = (h, c)
    if run == "fold":
        arrays = None if state is None else (state[0].numpy(), state[1].numpy())
        output, (h_n, c_n) = fold(model).run(x.numpy(), arrays)
    else:
        with torch.no_grad():
            output, (h_n, c_n) = model(x, state)
    np.testing.assert_allclose(np.swapaxes(output, 0, 1), recorded["output_fp64"], atol=1e-10)
    np.testing.assert_allclose(h_n, recorded["h_n_fp64"], atol=1e-10)
    np.testing.assert_allclose(c_n, recorded["c_n_fp64"], atol=1e-10)


@pytest.mark.parametrize("load", [stacked_per_step, bidirectional_shared])
def test_their_exports_pass_the_check(load, tmp_path):
    model, _ = load()
    export(model, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx", native=True)
    assert report.passed, report.failures
    assert report.ratio <= 4
